"""Callbacks: what they are told, how they stop a run, and what is left of a run that one of them breaks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from srft import Callback, Run, StopTraining, load_recipe, train
from srft.training.run_dir import RunDir
from tests.helpers import ROOT, SMALL


class Recorder(Callback):
    """Notes what it is told; ends the run after `last` steps by raising `error`."""

    def __init__(self, last: int = 99, error: type[Exception] = StopTraining) -> None:
        self.last, self.error = last, error
        self.steps: list[tuple[int, int]] = []  # with the rows that the run had written by then
        self.scores: list[tuple[int, float]] = []

    def on_step(self, step: int, metrics: Mapping[str, Any], run: Run) -> None:
        assert metrics == run.metrics[-1]
        assert metrics["step"] == step
        assert not run.finished
        self.steps.append((step, len(run.metrics)))
        if step == self.last:
            raise self.error("enough")

    def on_evaluation(self, step: int, scores: Mapping[str, Mapping[str, Any]], run: Run) -> None:
        assert [(row["step"], row["avg"]) for row in run.evaluations[-1:]] == [(step, scores["ood"]["avg"])]
        self.scores.append((step, scores["test"]["avg"]))


def sft(*changes: str) -> Any:
    return load_recipe("quickstart", [*SMALL, "method.name=sft", *changes])


def test_a_callback_is_told_of_every_step_and_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = Recorder()
    run = train(sft("evaluation.every=1"), tmp_path / "run", callbacks=[seen])
    assert seen.steps == [(1, 1), (2, 2)]
    assert seen.scores == [(row["step"], row["avg"]) for row in run.evaluations if row["benchmark"] == "test"]
    assert [step for step, _ in seen.scores] == [0, 1, 2]
    assert capsys.readouterr().out == ""  # in a script a run is silent


def test_a_callback_stops_a_run_which_is_saved_evaluated_and_finished(tmp_path: Path) -> None:
    seen = Recorder(last=2)
    run = train(sft("training.steps=5"), tmp_path / "run", callbacks=[seen])
    assert run.finished
    assert [row["step"] for row in run.metrics] == [1, 2]
    assert run.directory.checkpoint.name == "step-000002"
    assert [step for step, _ in seen.scores] == [0, 2]
    continued = train(out=tmp_path / "run", resume=True)
    assert [row["step"] for row in continued.metrics] == [1, 2, 3, 4, 5]


def test_an_evaluation_can_stop_a_run(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_evaluation(self, step: int, scores: Mapping[str, Mapping[str, Any]], run: Run) -> None:
            if step == first:
                raise StopTraining

    for first, checkpoints in ((1, ["step-000001"]), (0, [])):
        out = tmp_path / str(first)
        run = train(sft("training.steps=5", "evaluation.every=1"), out, callbacks=[Stop()])
        assert run.finished
        assert len(run.metrics) == first
        assert {row["step"] for row in run.evaluations} == set(range(first + 1))
        assert [folder.name for folder in run.directory.checkpoints] == checkpoints


def test_a_stage_that_is_stopped_is_the_last(tmp_path: Path) -> None:
    stages = {"extends": "quickstart", "stages": [{"method": {"name": "sft"}}, {"method": {"name": "dft"}}]}
    recipe = load_recipe(stages, [*SMALL, "evaluation.sets={}", "stages.0.training.steps=3", "data.limit=8"])
    run = train(recipe, tmp_path / "run", callbacks=[Recorder(last=1)])
    assert run.finished
    assert [row["stage"] for row in run.metrics] == [1]


def test_a_callback_that_fails_leaves_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="enough"):
        train(sft("training.steps=3"), tmp_path / "run", callbacks=[Recorder(last=2, error=ZeroDivisionError)])
    assert RunDir(tmp_path / "run").checkpoint.name == "step-000002"
    run = train(out=tmp_path / "run", resume=True)
    assert [row["step"] for row in run.metrics] == [1, 2, 3]


@pytest.mark.parametrize("error", [StopTraining, ZeroDivisionError])
def test_a_callback_ends_training_on_pairs(tmp_path: Path, error: type[Exception]) -> None:
    pytest.importorskip("trl", reason="TRL is not installed: scripts/setup test")
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "1 + 1", "answer": "2", "chosen": "2", "rejected": "3"}\n' * 12)
    changes = [*SMALL, f"data.path={file}", "data.selection=null", "evaluation.sets={}", "training.steps=3"]
    recipe, seen = load_recipe("quickstart", [*changes, "method.name=dpo"]), Recorder(last=2, error=error)
    if error is StopTraining:
        assert train(recipe, tmp_path / "run", callbacks=[seen]).finished
    else:
        with pytest.raises(error):
            train(recipe, tmp_path / "run", callbacks=[seen])
    assert [step for step, _ in seen.steps] == [1, 2]
    assert RunDir(tmp_path / "run").checkpoint.name == "step-000002"


SCRIPT = """
import sys
from srft import train
from tests.run.test_callbacks import Recorder, sft
train(sft("training.steps=4"), sys.argv[1], callbacks=[Recorder(last=2, error=ZeroDivisionError)])
"""


@pytest.mark.slow
def test_all_processes_end_together(tmp_path: Path) -> None:
    file = tmp_path / "two.py"
    file.write_text(SCRIPT)
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(file), str(tmp_path / "run")],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert "ZeroDivisionError: enough" in launched.stderr, launched.stderr[-3000:]
    assert "a callback failed" in launched.stderr
    assert len(RunDir(tmp_path / "run").metrics) == 2
    assert RunDir(tmp_path / "run").checkpoint.name == "step-000002"
