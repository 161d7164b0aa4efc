"""Runs that are made to have a trouble: they say so when it begins, keep it in their files, and the doctor finds it."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from srft import Run, SrftError, load_recipe, train
from srft.cli import app
from srft.run.examine import RECENT
from srft.training.conditions import WINDOW
from srft.training.run_dir import RunDir
from srft.training.warnings import examined

SMALL = [
    "training.prompts_per_step=2", "training.tokens_per_micro_batch=1500", "rollout.n=2", "training.device=cpu",
    "logging.samples_every=0", "verify.workers=1", "evaluation.at_start=false", "data.limit=16",
    "evaluation.sets={test: {path: 'srft:arithmetic/test.jsonl', limit: 2}}", "evaluation.sampling={n: 1, max_response_length: 16}",
]  # fmt: skip


def trained(out: Path, *changes: str) -> tuple[Run, str]:
    """A run, and what it showed."""
    console = Console(width=200, file=io.StringIO())
    return train(load_recipe("quickstart", [*SMALL, *changes]), out, console=console), console.file.getvalue()


def doctor(run: Path) -> Result:
    return CliRunner().invoke(app, ["doctor", str(run)])


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A run whose responses have no room for an answer."""
    words = ["method.name=grpo", "rollout.max_response_length=4", f"training.steps={WINDOW + 1}"]
    return trained(tmp_path_factory.mktemp("cut") / "run", *words)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, _ = trained(tmp_path_factory.mktemp("healthy") / "run", "method.name=sft", "training.steps=2")
    return run.directory.path


def test_a_warning_is_said_once_and_kept(cut: tuple[Run, str]) -> None:
    run, shown = cut
    given = [(row["step"], row["name"]) for row in run.directory.warnings]
    assert given == [(WINDOW, "reward_stuck"), (WINDOW, "no_signal"), (WINDOW, "truncated")]
    for row in run.metrics:
        assert {name for name in row if name.startswith("warning/")} == {
            f"warning/{name}" for step, name in given if step <= row["step"]
        }
    assert given == [(step, warning.name) for step, warning in examined(run.metrics)]
    for row in run.directory.warnings:
        assert shown.count(f"Warning: {row['name']}: {row['text']}.") == 1
        assert row["advice"] in shown
    assert f"3 warnings: reward_stuck (step {WINDOW}), " in shown


def test_what_a_resumed_run_forgets_is_no_longer_warned_of(cut: tuple[Run, str], tmp_path: Path) -> None:
    shutil.copytree(cut[0].directory.path, tmp_path / "run")
    directory = RunDir(tmp_path / "run")
    directory.rewind(WINDOW - 1, 1, (tmp_path / "run" / "recipe.yaml").read_text())
    assert directory.warnings == []


def test_demonstrations_without_an_end_are_warned_of(tmp_path: Path) -> None:
    words = ["method.name=sft", "rollout.max_response_length=20", f"training.steps={WINDOW}", "evaluation.sets={}"]
    run, _ = trained(tmp_path / "run", *words)
    assert [row["name"] for row in run.directory.warnings] == ["demonstrations_cut"]


def test_a_template_that_does_not_fit_is_warned_of_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages[-1].content }}")
    words = ["method.name=sft", f"data.template={tmp_path / 'own.jinja'}", "training.steps=1", "evaluation.sets={}"]
    run, shown = trained(tmp_path / "run", *words)
    assert [(row["step"], row["name"]) for row in run.directory.warnings] == [(1, "template_mismatch")]
    assert "Warning: template_mismatch: the chat template does not open" in shown
    assert "bad  template_mismatch" in doctor(run.directory.path).output


def test_the_doctor_finds_the_warnings_of_a_run(cut: tuple[Run, str]) -> None:
    result = doctor(cut[0].directory.path)
    assert result.exit_code == 1
    assert "Look at: reward_stuck, no_signal, truncated." in result.output
    assert f"from step {WINDOW}: 100% of the rollouts are cut" in result.output


def test_the_doctor_finds_nothing_wrong_with_a_healthy_run(healthy: Path) -> None:
    result = doctor(healthy)
    assert result.exit_code == 0, result.output
    assert "Nothing is wrong with it." in result.output
    assert "2 are done, the last took" in result.output


def _torn(run: Path) -> None:
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + '{"step": 3, "sta\n')


def _foreign(run: Path) -> None:
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + '[1]\n{"step": "x", "stage": 1}\n')


def _stopped(run: Path) -> None:
    first = (run / "metrics.jsonl").read_text().split("\n")[0]
    (run / "metrics.jsonl").write_text(first + "\n")
    old = (run / "metrics.jsonl").stat().st_mtime - RECENT - 60
    os.utime(run / "metrics.jsonl", (old, old))


def _gap(run: Path) -> None:
    second = (run / "metrics.jsonl").read_text().split("\n")[1]
    (run / "metrics.jsonl").write_text(second + "\n")


def _damaged(run: Path) -> None:
    file = next(run.glob("checkpoints/*/*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_torn, "bad  metrics.jsonl .*jsonl:3 is no row of this run"),
        (_foreign, "bad  metrics.jsonl .*jsonl:4 is no row of this run"),
        (_stopped, "bad  steps .* 1 are left of stage 1 of 1. To continue: srft train --resume --out"),
        (_gap, "bad  steps .* 1 rows for 2 steps; missing: 1"),
        (_damaged, "bad  checkpoint step-000002 .* model.safetensors: "),
        (lambda run: shutil.rmtree(run / "checkpoints"), "off  checkpoints .* none yet"),
        (lambda run: shutil.rmtree(run / "trainer"), "off  resuming .* cannot be continued"),
        (lambda run: (run / "evaluations.jsonl").unlink(), "bad  evaluation .* none at the last step"),
        (lambda run: (run / "metrics.jsonl").unlink(), "bad  steps .* no step was finished"),
        (lambda run: (run / "recipe.yaml").write_text("model: 3"), "bad  recipe .*recipe.yaml: .model."),
    ],
)
def test_the_doctor_finds_what_is_broken(
    healthy: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    shutil.copytree(healthy, tmp_path / "run")
    damage(tmp_path / "run")
    result = doctor(tmp_path / "run")
    assert result.exit_code == (1 if said.startswith("bad") else 0), result.output
    assert re.search(said, result.output), result.output


def test_a_run_without_its_end_may_be_on_its_way(healthy: Path, tmp_path: Path) -> None:
    shutil.copytree(healthy, tmp_path / "run")
    _stopped(tmp_path / "run")
    os.utime(tmp_path / "run" / "metrics.jsonl")
    result = doctor(tmp_path / "run")
    assert result.exit_code == 0
    assert "it may be on its way" in result.output


def test_the_doctor_of_no_run(tmp_path: Path) -> None:
    error = doctor(tmp_path).exception
    assert isinstance(error, SrftError)
    assert "it holds no run" in str(error)
