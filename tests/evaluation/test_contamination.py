"""Overlap of training prompts with benchmarks."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from srft.cli import app
from srft.data.problem import Problem
from srft.errors import SrftError
from srft.evaluation.contamination import contamination, overlap
from tests.conftest import shared

LONG = "A farmer has seventeen sheep and all but nine of them run away, how many sheep are left on the farm?"


def test_copies_parts_and_strangers_are_told_apart() -> None:
    training = [
        Problem(LONG.upper().replace(",", " —"), where="t:0"),
        Problem("What is 2 + 3?", where="t:1"),
        Problem(" ".join(LONG.split()[:14]) + " and then something else happens to them", where="t:2"),
    ]
    strange = "Once upon a time a boat with twelve sailors went to sea in the rain and wind and did not return at all"
    benchmark = [Problem(LONG), Problem(strange), Problem("What is 2 + 3?"), Problem("What is 2 + 4?")]
    result = overlap(training, {"b": benchmark})["b"]
    assert (result.problems, result.flagged, result.half, result.exact) == (4, 2, 2, 2)
    assert result.worst == ((0, 1.0, "t:0"), (2, 1.0, "t:1"))
    part = overlap(training[2:], {"b": benchmark})["b"]
    assert (part.flagged, part.half, part.exact) == (1, 0, 0)
    assert part.worst[0][2] == "t:2"


def test_a_system_message_and_the_order_of_options_do_not_count() -> None:
    system = {
        "role": "system",
        "content": "Think step by step about each of the following questions before you answer it.",
    }
    training = [Problem((system, {"role": "user", "content": LONG}))]
    options = Problem(f"{LONG}\n\nA. nine\nB. eight", "A", metadata={"options": ["nine", "eight"]})
    assert overlap(training, {"b": [options]})["b"].exact == 1
    assert overlap([Problem((system, {"role": "user", "content": "Hello?"}))], {"b": [options]})["b"].flagged == 0


def test_plain_text_is_read_whole() -> None:
    question = " ".join(f"word{i}" for i in range(20))
    training = [Problem("", demonstrations=(f"Before. {question} After.",))]
    assert overlap(training, {"b": [Problem(question)]})["b"].half == 1


def test_the_command_line_says_it_in_json(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"problem": LONG, "answer": "9"}) + "\n")
    arguments = ["contamination", str(file), "--benchmarks", str(file), "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert json.loads(result.output)["train"]["exact"] == 1
    assert "word for word" in CliRunner().invoke(app, arguments[:-1], catch_exceptions=False).output
    with pytest.raises(SrftError):
        contamination(str(file), str(file), n=0)


def test_real_training_data_has_no_copy_of_math500() -> None:
    train = shared("data/deepscaler_train_math.json")
    result = contamination(str(train), "math500", data_dir=train.parent)
    assert result["math500"].exact == 0
    assert (
        contamination(str(train.parent / "math500.jsonl"), "math500:20", data_dir=train.parent)["math500"].exact == 20
    )


def test_a_training_run_says_that_it_trains_on_its_test_set(tmp_path: Path) -> None:
    from srft import load_recipe, train

    same = {"evaluation.sets.test.path": "srft:arithmetic/train.jsonl", "evaluation.sets.test.limit": "3"}
    recipe = load_recipe(
        "quickstart",
        [f"{k}={v}" for k, v in same.items()]
        + ["training.steps=1", "evaluation.at_start=false", "training.device=cpu", "evaluation.sets.ood.limit=2"]
        + ["evaluation.sampling.n=1", "rollout.max_response_length=8", "training.prompts_per_step=2"]
        + ["verify.check_answers=0"],  # at this length every demonstration is cut
    )
    console = Console(record=True, width=200, file=io.StringIO())
    train(recipe, tmp_path / "run", console=console)
    said = console.export_text()
    assert "In the training prompts stand problems of evaluation sets: test 3 of 3 (3 word for word)" in said
    report = json.loads((tmp_path / "run" / "contamination.json").read_text())
    assert (report["test"]["exact"], report["ood"]["exact"]) == (3, 0)
