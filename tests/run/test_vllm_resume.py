"""A run that samples by vLLM, killed and resumed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from srft.training.run_dir import RunDir
from tests.helpers import ROOT, SMALL, weights
from tests.run.test_ranks import fail

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.drills,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed; see docs/recipes.md for its environment",
    ),
]
CHANGES = [
    *SMALL, "rollout.engine=vllm", "evaluation.sets={}", "optim.lr=1e-3", "training.steps=4", "training.checkpoint_every=1",
]  # fmt: skip


def start(*words: str | Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-m", "srft", "train", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def numbers(run: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "step_time", "tokens_per_second")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in RunDir(run).metrics]


@pytest.mark.timeout(1800)
def test_killed_and_resumed(tmp_path: Path) -> None:
    """Bit for bit the run that was not killed, which leaves no process behind."""
    whole = start("quickstart", *CHANGES, "--out", tmp_path / "whole")
    assert "Done" in whole.communicate()[0]
    run = start("quickstart", *CHANGES, "--out", tmp_path / "run")
    while len(RunDir(tmp_path / "run").metrics) < 2:
        assert run.poll() is None, run.communicate()[0]
        threading.Event().wait(0.05)
    children = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    assert psutil.wait_procs(children, timeout=10)[1] == []
    again = start("--resume", "--out", tmp_path / "run")
    assert "Done" in again.communicate()[0]
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    mine, theirs = (weights(RunDir(tmp_path / name).checkpoint) for name in ("run", "whole"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.timeout(900)
def test_one_engine_does_not_keep_the_others(tmp_path: Path) -> None:
    done = fail(tmp_path, 1, "raise", "rollout.engine=vllm")
    assert "rank 0: SrftError: process 1 failed: ValueError: what is wrong" in done.stdout
