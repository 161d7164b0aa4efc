"""A worker of verl killed, then the command itself: the run ends with the reason, leaves nothing behind, and goes on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from srft.training.run_dir import RunDir
from tests.engines.verl.on_cpus import environment, overrides
from tests.helpers import ROOT, SMALL

missing = [name for name in ("verl", "transfer_queue", "hydra", "vllm") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.verl_engine,
    pytest.mark.drills,
    pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: scripts/test-verl"),
]
CHANGES = [*(word for word in SMALL if not word.startswith(("training.device", "training.steps")))]
CHANGES += ["training.precision=fp32", "training.checkpoint_every=1", "evaluation.sets={}", "training.steps=4"]


class Command:
    """`srft train … --engine verl` on one rank, its output in a file."""

    def __init__(self, run: Path, *words: str) -> None:
        self.run, self.log = run, run.with_name("log.txt")
        command = ["-m", "srft", "train", *words, "--engine", "verl", *overrides(ranks=1), "--out", str(run)]
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command], stdout=out, stderr=subprocess.STDOUT, env=environment(), cwd=ROOT
            )

    def wait_for(self, step: int) -> list[psutil.Process]:
        """Until metrics.jsonl has the step. Returns the processes under the command's."""
        while len(RunDir(self.run).metrics) < step:
            assert self.process.poll() is None, self.log.read_text()[-5000:]
            threading.Event().wait(0.2)
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.mark.timeout(3600)
def test_a_killed_worker_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    command = Command(tmp_path / "run", "quickstart", *CHANGES)
    (worker,) = [p for p in command.wait_for(2) if "ray::WorkerDict" in " ".join(p.cmdline())]
    worker.kill()
    assert command.process.wait(timeout=300) == 2
    assert "a process ended: " in command.log.read_text()
    assert RunDir(tmp_path / "run").checkpoints


@pytest.mark.timeout(3600)
def test_a_killed_command_leaves_nothing_and_goes_on(tmp_path: Path) -> None:
    command = Command(tmp_path / "run", "quickstart", *CHANGES)
    started = command.wait_for(2)
    command.process.kill()
    command.process.wait()
    assert psutil.wait_procs(started, timeout=120)[1] == []
    command = Command(tmp_path / "run", "--resume")
    assert command.process.wait(timeout=900) == 0, command.log.read_text()[-5000:]
    assert [row["step"] for row in RunDir(tmp_path / "run").metrics] == [1, 2, 3, 4]
