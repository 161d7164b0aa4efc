"""A recipe that no one wrote: chosen by model, data and method."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from srft import SrftError, methods
from srft.recipe.load import load_recipe
from srft.run.defaults import MIXED, PREFERENCES, PROXIMAL, ROLLOUTS, SUPERVISED, Measured, choose, recipe_for
from srft.run.plan import make_plan
from srft.verify import Verifier
from tests.helpers import command

OWN = sorted(name for name, method in methods().items() if method.function.__module__.startswith("srft."))
PATHS = ["model.path=srft:model", "data.path=srft:arithmetic/train.jsonl"]


def chosen(method: str, measured: Measured, *changes: str) -> Any:
    asked = load_recipe({"training": {"steps": 1}}, [*PATHS, f"method.name={method}", *changes])
    return load_recipe(choose(asked, measured), [*PATHS, f"method.name={method}", *changes])


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("problems", [1, 7, 60, 5000])
def test_every_method_gets_a_recipe_that_fits(method: str, problems: int) -> None:
    measured = Measured(135_000_000, 2048, [100] * problems, [*[150] * 99, 1900])
    recipe = chosen(method, measured)
    training, updates = recipe.training, recipe.optim.updates_per_batch
    assert recipe.method.name == method
    assert (recipe.data.max_prompt_length, recipe.rollout.max_response_length) == (128, 192)  # multiples of 64
    assert training.prompts_per_step % updates == 0
    assert training.prompts_per_step <= max(problems, updates)
    steps = training.steps or math.ceil(training.epochs * problems / training.prompts_per_step)
    assert problems < 5000 or 100 <= steps <= 1000
    assert 1e-6 <= recipe.optim.lr <= 1e-3


def test_lengths_stay_in_the_models_window() -> None:
    """Prompt and response together; with UFT's hints, which may be as long as a response, the response twice."""
    measured = Measured(135_000_000, 512, [300], [700])
    assert chosen("sft", measured).rollout.max_response_length == 512 - 320
    assert chosen("uft", measured).rollout.max_response_length == (512 - 320) // 2
    assert chosen("grpo", Measured(135_000_000, None, [300], [])).rollout.max_response_length == 1024


def test_rates_are_those_that_were_used_at_either_end_and_near_another_between() -> None:
    """The quickstarts at 1.6 M parameters, the papers at 7.6 B; gsm8k-smollm2 was not used to draw the line."""
    for rate, small, large in (
        (PROXIMAL, "quickstart-psft", "qwen2.5-7b-instruct-psft"),
        (MIXED, "quickstart", "qwen2.5-math-7b-srft"),
        (ROLLOUTS, None, "qwen2.5-math-7b-grpo"),
    ):
        assert small is None or rate.at(1.6e6) == load_recipe(small).optim.lr
        assert large is None or rate.at(7.6e9) == rate.at(7e10) == load_recipe(large).optim.lr
    assert PREFERENCES.at(1.6e6) == load_recipe("quickstart-sft-then-dpo").stages[1].optim.lr
    assert MIXED.at(134.5e6) == pytest.approx(load_recipe("gsm8k-smollm2").optim.lr, rel=0.1)
    lora = chosen("sft", Measured(135_000_000, None, [9], [9]), "model.lora.rank=8")
    assert lora.optim.lr == pytest.approx(10 * SUPERVISED.at(135e6))


def test_what_the_user_says_wins() -> None:
    recipe = recipe_for([*PATHS, "method.name=sft", "optim.lr=0.25", "training.steps=3", "data.template=none"])
    assert (recipe.optim.lr, recipe.training.steps, recipe.training.epochs, recipe.data.template) == (
        0.25,
        3,
        None,
        "none",
    )
    assert (recipe.name, recipe.optim.schedule) == ("srft-model-sft", "linear")


@pytest.mark.parametrize(("method", "missing"), [("sft", "has a demonstration"), ("srft", "has a demonstration")])
def test_data_that_lack_what_the_method_needs_are_told(tmp_path: Path, method: str, missing: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "1 + 2?", "answer": "3"}) + "\n")
    recipe = recipe_for(["model.path=srft:model", f"data.path={file}", f"method.name={method}"])
    with Verifier(1) as verifier, pytest.raises(SrftError, match=missing):
        make_plan(recipe, verifier)


def test_preference_pairs_of_the_data_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"prompt": "1 + 2?", "chosen": "It is 3.", "rejected": "It is 4."}
    file.write_text(json.dumps(row) + "\n")
    assert recipe_for(["model.path=srft:model", f"data.path={file}", "method.name=dpo"]).data.selection is None
    assert recipe_for([*PATHS, "method.name=dpo"]).data.selection is not None


def test_a_model_and_data_are_trained_without_a_recipe(tmp_path: Path) -> None:
    words = ["--model", "srft:model", "--data", "srft:arithmetic/train.jsonl", "--method", "sft"]
    words += ["--eval", "srft:arithmetic/test.jsonl", "training.steps=1", "training.prompts_per_step=2", "data.limit=6"]
    words += ["evaluation.limit=2", "training.device=cpu", "evaluation.sampling.n=1"]
    result = command("train", *words, "--out", tmp_path / "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "No recipe is named" in result.stdout
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert (recipe["method"]["name"], recipe["training"]["steps"], recipe["data"]["template"]) == ("sft", 1, "chat")
    evaluated = [json.loads(line) for line in (tmp_path / "run/evaluations.jsonl").read_text().splitlines()]
    assert {(row["benchmark"], row["step"]) for row in evaluated} == {("test", 0), ("test", 1)}
