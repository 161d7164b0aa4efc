"""What is told of a run before it begins, and at its end."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from srft.data import make_template, problems_from_rows, tokenize_problems
from srft.evaluation.task import make_tasks
from srft.policy.load import load_tokenizer
from srft.recipe.load import load_evaluation, load_recipe
from srft.run.announce import show_end
from srft.run.checks import run_checks
from srft.training.display import Display
from srft.training.run_dir import RunDir
from srft.verify.verifier import Verifier
from tests.helpers import SMALL


def test_the_command_at_the_end_evaluates_as_the_run_did(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", [*SMALL, "verify.extract=last"])
    (tmp_path / "checkpoints/step-000002").mkdir(parents=True)
    shown = io.StringIO()
    show_end(Display(Console(file=shown), 2), RunDir(tmp_path), recipe, True, "")
    command = next(line for line in shown.getvalue().splitlines() if "srft eval " in line).partition("srft eval ")[2]
    model, _, benchmarks, *changes = command.split()
    asked = load_evaluation(model, [f"benchmarks=[{benchmarks.partition(',')[0]}]", *changes])
    task = make_tasks(asked, load_tokenizer(recipe.model))[0]
    assert (asked.model.path, asked.template) == (str(tmp_path / "checkpoints/step-000002"), "chat")
    assert (task.extract, task.params.max_response_length) == ("last", recipe.rollout.max_response_length)


@pytest.mark.parametrize(("template", "told"), [("assistant", True), ("chat", False), ("none", False)])
def test_system_messages_that_give_way_to_the_templates_are_told(template: str, told: bool) -> None:
    recipe = load_recipe("quickstart-sft", ["evaluation.sets={}", f"data.template={template}"])
    rows = [
        {"prompt": "2 + 3?", "completion": "\\boxed{5}"},
        {"prompt": "q", "completion": "\\boxed{5}", "system": "S"},
    ]
    tokenizer = load_tokenizer(recipe.model)
    prompts = tokenize_problems(
        problems_from_rows(rows), tokenizer, template=make_template(recipe.data), max_prompt_length=None,
        max_response_length=None,
    ).prompts  # fmt: skip
    with Verifier(1) as verifier:
        lines = run_checks(recipe, tokenizer, prompts, [], verifier)
        spoken_for = recipe.model_copy(update={"data": recipe.data.model_copy(update={"system": "mine"})})
        assert not any("give" in line for line in run_checks(spoken_for, tokenizer, prompts, [], verifier))
    assert any(line.startswith("1 of 2 prompts have a system message of their own") for line in lines) == told
