"""What is shown at a run's end."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from srft.evaluation.task import make_tasks
from srft.policy.load import load_tokenizer
from srft.recipe.load import load_evaluation, load_recipe
from srft.run.announce import show_end
from srft.training.display import Display
from srft.training.run_dir import RunDir
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
