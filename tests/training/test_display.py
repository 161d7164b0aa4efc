"""What a user sees of a run: lines of 80 columns, bars that reach their end, and what came of it."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers.utils import logging as transformers_logging

from srft import load_recipe, train
from srft.training import display
from srft.training.bar import make_bar
from srft.training.display import Display
from tests.helpers import SMALL


def shown(rows: list[dict[str, Any]], total: int = 80, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    lines = Display(console, total)
    for row in rows:
        lines.step({"stage": 1, "tokens_per_second": 744.0, "seconds_left": 245.0, **row})
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


SRFT = {
    "step": 7, "reward": 0.375, "loss": 3.6, "loss/rl_correct": -0.759, "loss/rl_demo": -0.285, "loss/rl_wrong": 0.645,
    "loss/sft_demo": 4.004, "entropy": 0.107, "entropy/demo": 0.6, "completions/mean_length": 41.2,
}  # fmt: skip


def test_a_step_is_a_line_of_80_columns() -> None:
    head, line = shown([SRFT])
    assert head.split() == [
        "step",
        "reward",
        "rl_correct",
        "rl_demo",
        "rl_wrong",
        "sft_demo",
        "entropy",
        "length",
        "tok/s",
        "left",
    ]
    assert line.split() == ["7/80", "0.375", "-0.759", "-0.285", "0.645", "4.004", "0.107", "41", "744", "4:05"]
    assert max(map(len, (head, line))) <= 80
    for total in (1000, 10**6):
        head, line = shown([SRFT], total)
        assert max(map(len, (head, line))) <= 80
        assert {"step", "reward", "rl_wrong", "left"} <= set(head.split())
    assert "entropy/demo" in shown([SRFT], width=120)[0].split()


def test_a_method_has_the_columns_of_what_it_has() -> None:
    sft = {"step": 1, "loss/sft": 1.5, "entropy/demo": 0.6, "demo/mean_length": 99.0}
    assert shown([sft])[0].split() == ["step", "sft", "entropy/demo", "length", "tok/s", "left"]
    pairs = {"step": 1, "loss/dpo": 0.69, "rewards/accuracies": 0.5, "rewards/margins": 0.01, "tokens_per_second": 0.0}
    assert shown([pairs])[0].split() == ["step", "accuracy", "margin", "dpo", "left"]


def test_a_step_unlike_the_others_brings_its_columns() -> None:
    """SASR's steps are SFT or GRPO; a new stage begins with columns of its own."""
    sft, grpo = {"loss/sft": 1.5}, {"loss/rl": -0.0001, "reward": 0.5}
    lines = shown([{"step": 1, **sft}, {"step": 2, **grpo}, {"step": 3, **sft}, {"step": 4, **sft, "stage": 2}])
    assert [line.split()[0] for line in lines] == ["step", "1/80", "step", "2/80", "3/80", "step", "4/80"]
    assert lines[3].split() == ["2/80", "0.500", "0.000", "-", "744", "4:05"]
    assert lines[5].split() == ["step", "sft", "tok/s", "left"]


@pytest.mark.parametrize(("seconds", "text"), [(59.9, "0:59"), (245, "4:05"), (3600, "1h00"), (9e4, "1d01h")])
def test_time_left(seconds: float, text: str) -> None:
    assert shown([{"step": 1, "seconds_left": seconds}])[1].split()[-1] == text


def test_bars_reach_their_end_and_time_left_counts_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases: list[list[Any]] = []
    monkeypatch.setattr(Display, "begin", lambda self, *phase: phases.append([*phase, 0]))

    def advance(self: Display, count: int) -> None:
        phases[-1][-1] += count

    monkeypatch.setattr(Display, "advance", advance)
    run = train(
        load_recipe("quickstart", [*SMALL, "evaluation.every=1", "optim.updates_per_batch=2"]), tmp_path / "run"
    )
    wanted, done = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for phase, step, total, count in phases:
        wanted[phase].append(total)
        done[phase].append(count)
        assert 0 <= step <= 2
    assert wanted == done
    assert wanted["sampling"] == [4 * 4] * 2
    assert wanted["evaluating"] == [2 * 4 * 2] * 3
    assert min(wanted["updating"]) >= 2
    seconds = {row["step"]: row["seconds"] for row in run.evaluations}
    first, last = run.metrics
    assert first["seconds_left"] == pytest.approx(first["step_time"] + 2 * seconds[0])
    assert last["seconds_left"] == pytest.approx(seconds[1])


def test_a_run_ends_with_what_came_of_it(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    words = [*SMALL, "method.name=sft", "logging.samples_every=0"]
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    run = train(load_recipe("quickstart", words), tmp_path / "run", console=console)
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "\x1b" not in printed  # lines alone where it is no terminal
    first, last = (100 * row["avg"] for row in run.evaluations if row["benchmark"] == "test")
    assert re.search(rf"^test  +2  +{first:.1f} → {last:.1f} %  ", printed, re.MULTILINE)
    assert f"from_pretrained('{run.directory.checkpoint}')\n" in printed
    assert f"srft eval {run.directory.checkpoint} --benchmarks srft:arithmetic/test.jsonl," in printed
    assert f"{tmp_path / 'run' / 'metrics.jsonl'}\n" in printed
    assert f"{first:.1f} → {last:.1f} %" in repr(run)
    html = run._repr_html_()
    assert f"<td>{first:.1f} → {last:.1f} %</td>" in html
    assert f"<td>{run.metrics[-1]['loss']:.4g}</td>" in html


def test_a_terminal_has_a_bar_and_quiet_nothing(tmp_path: Path) -> None:
    words = [*SMALL, "evaluation.sets={}", "training.steps=1", "logging.samples_every=0"]
    output = io.StringIO()
    train(
        load_recipe("quickstart", words), tmp_path / "bar", console=Console(file=output, force_terminal=True, width=80)
    )
    assert "step 1/1 updating" in output.getvalue()
    assert "\x1b[?25h" in output.getvalue()  # the cursor is back
    silent = io.StringIO()
    train(load_recipe("quickstart", words), tmp_path / "none", console=Console(file=silent, quiet=True))
    assert silent.getvalue() == ""
    assert make_bar(Console(file=silent, quiet=True)) is None  # in a notebook the bar is not the console's


def test_a_long_phase_prints_lines_where_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=80)
    shown = Display(console, 80)
    shown.begin("sampling", 3, 128)
    shown.advance(40)  # not a minute yet
    monkeypatch.setattr(display, "LOG_EVERY", -1.0)
    shown.advance(10)
    shown.advance(90)  # a hook drew again
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == ["step 3/80 sampling: 50 of 128", "step 3/80 sampling: 140 of 140"]
