"""Two processes are one: on preference pairs, in a run that one began, and in how they fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from srft import Run, SrftError, train
from srft.run.plan import make_plan
from srft.training.run_dir import RunDir
from srft.verify.verifier import Verifier
from tests.helpers import ROOT, weights
from tests.run import rank_runs
from tests.run.test_train import same

ROUNDING = 1e-4  # of the largest of thousands of differences between log-probs, which are rounding alone


def launch(ranks: int, *words: str | Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """By torchrun, on CPUs."""
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, words)],
        capture_output=True, text=True, check=False, timeout=timeout, env=os.environ | environment,
    )  # fmt: skip


def cut(run: Path, step: int, into: Path) -> None:
    """A copy of the run as a crash after the step's checkpoint would leave it."""
    shutil.copytree(run, into)
    for checkpoint in RunDir(into).checkpoints:
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one`: runs of one process; `two`: the same, gone on with by two after their first step."""
    pytest.importorskip("trl", reason="TRL is not installed: scripts/setup test")
    folder = tmp_path_factory.mktemp("ranks")
    for name, recipe in {"pairs": rank_runs.pairs(folder), "srft": rank_runs.srft()}.items():
        train(recipe, folder / "one" / name)
        cut(folder / "one" / name, 1, folder / "two" / name)
    done = launch(2, rank_runs.__file__, folder / "two")
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def same_pairs(one: RunDir, two: RunDir) -> None:
    """Every step and evaluation once, its numbers and the weights; TRL takes the mean of some over processes' means."""
    for rows in ("metrics", "evaluations"):
        assert [row["step"] for row in getattr(two, rows)] == [row["step"] for row in getattr(one, rows)]
    for a, b in zip(one.metrics[1:], two.metrics[1:], strict=True):
        for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected", "learning_rate"):
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-5), name
    mine, theirs = weights(one.checkpoint), weights(two.checkpoint)
    for name, weight in mine.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=1e-4)


def test_two_processes_train_on_pairs_as_one(folder: Path) -> None:
    same_pairs(RunDir(folder / "one/pairs"), RunDir(folder / "two/pairs"))


def test_pairs_that_are_not_shared_evenly_are_refused(tmp_path: Path) -> None:
    (_, stage) = rank_runs.pairs(tmp_path, "training.prompts_per_step=5").parts
    with Verifier(1) as verifier, pytest.raises(SrftError, match="5 pairs a step cannot be shared evenly by 2"):
        make_plan(stage, verifier, processes=2)


def test_one_process_two_and_one_again_are_one(folder: Path, tmp_path: Path) -> None:
    whole = Run(RunDir(folder / "one/srft"), finished=True)
    same(whole, Run(RunDir(folder / "two/srft"), finished=True))
    cut(folder / "two/srft", 2, tmp_path / "srft")
    same(whole, train(out=tmp_path / "srft", resume=True))


def test_what_ends_the_first_process_is_told_to_the_others(folder: Path) -> None:
    own, others = (json.loads((folder / f"two/first-{rank}.json").read_text()) for rank in range(2))
    assert own == [
        "OSError: [Errno 28] No space left on device", "KeyboardInterrupt: ", "SystemExit: 3", "Unpicklable: odd",
        "SrftError: there: no\nDo.",
    ]  # fmt: skip
    assert others == [*(f"SrftError: the first process failed: {error}" for error in own[:4]), own[4]]


@pytest.mark.drills
@pytest.mark.timeout(3600)
def test_any_number_of_processes_goes_on(tmp_path: Path) -> None:
    """A step of one process, the next of two with shards, the next of three without, and the last of one."""
    recipes = rank_runs.drilled(tmp_path)
    for name, recipe in recipes.items():
        train(recipe, tmp_path / "1" / name)
    whole = {name: Run(RunDir(tmp_path / "1" / name), finished=True) for name in recipes}
    for before, ranks, changes in (("1", 2, ["training.shard=true"]), ("2", 3, ["training.shard=false"])):
        for name in recipes.keys() - {"pairs"}:
            cut(tmp_path / before / name, ranks - 1, tmp_path / str(ranks) / name)
        if ranks == 3:
            cut(tmp_path / "1/pairs", 1, tmp_path / "3/pairs")
        done = launch(ranks, rank_runs.__file__, tmp_path / str(ranks), *changes, timeout=1800)
        assert done.returncode == 0, done.stderr[-5000:]
        for name in recipes.keys() - {"pairs"}:
            same(whole[name], Run(RunDir(tmp_path / str(ranks) / name), finished=True), ROUNDING)
    for name in recipes.keys() - {"pairs"}:
        cut(tmp_path / "3" / name, 3, tmp_path / "last" / name)
        same(whole[name], train(out=tmp_path / "last" / name, resume=True), ROUNDING)
    cut(tmp_path / "3/pairs", 1, tmp_path / "last/pairs")
    for pairs in (RunDir(tmp_path / "3/pairs"), train(out=tmp_path / "last/pairs", resume=True).directory):
        same_pairs(whole["pairs"].directory, pairs)


FAILING = """
import os, signal, sys, time
from datetime import timedelta
from pathlib import Path
from srft import train
from srft.rollout.collector import Collector
from tests.run.rank_runs import srft

out, failing, how, *changes = sys.argv[1:]
collect, rank = Collector.collect, os.environ["RANK"]

def fail(self, *words):
    if rank == failing and words[4] == 2:
        Path(out, "failed").write_text(str(time.time()))
        if how == "raise":
            raise ValueError("what is wrong")
        os.kill(os.getpid(), getattr(signal, how))
    return collect(self, *words)

Collector.collect = fail
if how == "SIGSTOP":
    sys.modules["srft.run.train"].TIMEOUT = timedelta(seconds=10)
try:
    train(srft(*changes), out)
except Exception as error:
    print(f"rank {rank}: {type(error).__name__}: {error}", flush=True)
    raise
"""


def fail(folder: Path, rank: int, how: str, *changes: str) -> subprocess.CompletedProcess[str]:
    """A launch of two, of which one fails so in its second step; all have ended within a minute."""
    (folder / "failing.py").write_text(FAILING)
    done = launch(2, "--monitor-interval", "2", folder / "failing.py", folder / "run", str(rank), how, *changes)
    assert time.time() - float((folder / "run/failed").read_text()) < 60
    assert done.returncode == 1
    return done


@pytest.mark.parametrize(
    ("rank", "how"),
    [
        (1, "raise"),
        *(
            pytest.param(rank, how, marks=pytest.mark.drills)
            for rank, how in ((0, "raise"), (0, "SIGKILL"), (1, "SIGKILL"), (1, "SIGSTOP"))
        ),
    ],
)
def test_one_process_ends_all_with_its_reason(tmp_path: Path, rank: int, how: str) -> None:
    """What the other says is not that a connection broke."""
    done = fail(tmp_path, rank, how)
    known = f"process {rank} failed: ValueError: what is wrong"
    assert f"rank {1 - rank}: SrftError: {known if how == 'raise' else 'another process'}" in done.stdout
    if how == "raise":
        assert f"rank {rank}: ValueError: what is wrong" in done.stdout
        assert "ValueError: what is wrong" in done.stderr.partition("Root Cause")[2]
    assert train(out=tmp_path / "run", resume=True).finished
