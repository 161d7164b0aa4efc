"""Every quickstart trains and resumes, and shows what its method, hooks and prompting promise."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from srft.data import resolve_path
from srft.errors import SrftError
from srft.objective.registry import Method
from srft.recipe.catalog import list_recipes
from srft.recipe.load import load_recipe
from srft.recipe.schema import Recipe
from srft.run.sizing import hardware
from srft.run.train import Run, train
from tests.helpers import weights
from tests.objective.steps import measured, micro_batch, policy, random_step

QUICK = [name for name in list_recipes() if name.startswith("quickstart")]


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans measure the machine's speed; nothing here reads it."""
    monkeypatch.setattr(hardware, "measured_rates", lambda: (1e12, 1e11))


def tiny(name: str, *changes: str) -> Recipe:
    """The recipe in a few seconds: two steps, or one a stage, of 8 prompts with 2 rollouts."""
    recipe = load_recipe(name)
    shared = ["training.device=cpu", "verify.workers=1", "evaluation.sets={}", "rollout.n=2"]
    if recipe.hooks.buffer:
        shared.append("hooks.buffer.size=3")
    if recipe.advantage.position:
        shared.append("advantage.position.steps=[0, 2]")
    if "warmup_steps" in recipe.method_options:
        shared.append("method.warmup_steps=1")
    parts = [(f"stages.{i}.", part, 1) for i, part in enumerate(recipe.stages)]
    shared += [f"{prefix}optim.lr=1e-4" for prefix, *_ in parts]  # or one step unlearns what the next one samples
    for prefix, part, steps in [("", recipe, 2), *parts]:
        shared.append(f"{prefix}training={{steps: {steps}, epochs: null, prompts_per_step: 8}}")
        shared.append(f"{prefix}data.limit=32")
        if part.data.selection:
            shared.append(f"{prefix}data.selection.n=2")
    return load_recipe(name, [*shared, *changes])


def shown(method: Method, options: dict[str, object]) -> set[str]:
    """The metrics that a method's own function gives, read off a call on a step of random numbers."""
    needs, record = method.needs(options), {}
    step = random_step(rollouts=4 * ("rollouts" in needs), demos=int("demonstrations" in needs))
    step = measured(method, options, step)
    t = micro_batch(policy(), step, range(len(step.tokens)), method, options)
    terms = method(replace(t, record=record), **options)
    observed = {name if "/" in name else f"method/{name}" for name, (_, count) in record.items() if count}
    names = {f"{kind}/{term}" for kind in ("loss", "gradient_share") for term in terms}
    return names if method.chooses else names | observed  # not every step has what a method observes by turns


def promised(part: Recipe) -> set[str]:
    """The metrics that a step of this recipe must show."""
    always = {"grad_norm", "learning_rate", "loss"}
    if "preferences" in part.needs:
        return always | {"loss/dpo", "rewards/margins", "rewards/accuracies"}  # as TRL reports them
    names = always | {"skipped_updates"} | shown(part.loss, part.method_options)
    names |= {f"grad_norm/{network}" for network in ("critic", "reward_model") if network in part.needs}
    names |= {"groups", "groups_drawn"} if part.hooks.refill else set()
    names |= {"buffer/size"} if part.hooks.buffer else set()
    if not part.loss.chooses:
        names |= {"reward", "completions/mean_length", "entropy"} if "rollouts" in part.needs else set()
        hints = part.rollout.prompting.strategy == "hints"  # of which a step may have none
        names |= {"demo/reward", "demo/mean_length"} if "demonstrations" in part.needs and not hints else set()
    return names


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("", "sft_demo rl_demo rl_correct rl_wrong method/w_sft clip_ratio/region_mean"),
        ("-chord-mu", "sft rl method/mu clip_ratio/region_mean"),
        ("-hpt", "sft rl method/sft_share clip_ratio/region_mean"),
        ("-iw-sft", "sft method/w_sft"),
        ("-ppo", "rl value method/value clip_ratio/region_mean grad_norm/critic"),
        ("-prime", "rl reward_model clip_ratio/region_mean grad_norm/reward_model"),
        ("-sasr", "sft rl"),
        ("-uft", "rl kl sft_hint clip_ratio/region_mean"),
    ],
)
def test_promises_are_read_off_the_method(name: str, metrics: str) -> None:
    """What the test below rests on, for some methods."""
    names = promised(load_recipe(f"quickstart{name}"))
    assert {metric if "/" in metric else f"loss/{metric}" for metric in metrics.split()} <= names


@pytest.mark.parametrize("name", QUICK)
def test_quickstarts_train_and_resume(tmp_path: Path, name: str) -> None:
    recipe = tiny(name)
    if recipe.stages:
        first = train(recipe.model_copy(update={"stages": recipe.stages[:1]}), tmp_path / "run")
        before = weights(first.directory.checkpoint)
        run = train(recipe, tmp_path / "run", resume=True)
        steps = [1] * len(recipe.stages)
    else:
        first = train(recipe, tmp_path / "run")
        before = weights(first.directory.checkpoint)
        run = train(tiny(name, "training.steps=3"), tmp_path / "run", resume=True)
        steps = [3]
    assert first.finished
    assert run.finished
    assert [row["stage"] for row in run.metrics] == [i for i, n in enumerate(steps, 1) for _ in range(n)]
    assert [row["step"] for row in run.metrics] == list(range(1, sum(steps) + 1))
    for row in run.metrics:
        part = recipe.parts[row["stage"] - 1]
        assert promised(part) <= row.keys()
        assert all(math.isfinite(value) for value in row.values())
        if shares := [v for k, v in row.items() if k.startswith("gradient_share/")]:
            assert sum(shares) == pytest.approx(1)
    assert run.metrics[-1].get("skipped_updates", 0) == 0
    assert any(row["grad_norm"] > 0 for row in run.metrics)
    assert moved(weights(resolve_path("srft:model")), before)
    assert moved(before, weights(run.directory.checkpoint))
    selected(recipe, run)
    extras(recipe, run)


def moved(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[key], other[key]) for key in one)


def selected(recipe: Recipe, run: Run) -> None:
    """The selection of a stage lies in the run directory, in columns that `data.path` reads."""
    for stage, part in enumerate(recipe.parts, 1):
        file = run.directory.path / f"selection-{stage}.jsonl"
        assert file.exists() == (part.data.selection is not None)
        if part.data.selection is not None:
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            columns = {"chosen", "rejected"} if part.data.selection.keep == "pairs" else {"completion"}
            assert rows
            assert all({"prompt", "answer", *columns} <= row.keys() for row in rows)


def extras(recipe: Recipe, run: Run) -> None:
    """What single recipes promise."""
    rows = run.metrics
    if "phi" in recipe.method_options and not recipe.stages:
        phi = recipe.method_options["phi"]
        assert rows[0]["method/mu"] == pytest.approx(0.1 if phi else 0.9)
        assert (rows[-1]["method/mu"] < rows[0]["method/mu"]) != phi
    if recipe.hooks.buffer:
        assert any("buffer/loss" in row for row in rows)  # it was full at least once
    if recipe.loss.chooses:
        assert "reward" not in rows[0]
    files = sorted((run.directory.path / "rollouts").glob("*.jsonl"))
    saved = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    strategy = recipe.rollout.prompting.strategy
    if strategy == "thought-patterns":
        assert {True, False} == {"pattern of thought" in row["prompt"] for row in saved}
    if strategy == "hints":
        assert any(row["is_demo"] and row["truncated"] for row in saved)  # the hint
    for part, row in ((recipe.parts[row["stage"] - 1], row) for row in rows):
        if part.hooks.refill and "rollouts" in part.needs:
            assert 0 < row["groups"] <= 8 <= row["groups_drawn"]
    if "preferences" in recipe.parts[-1].needs:
        with pytest.raises(SrftError, match="cannot go on from step 1 to 2"):
            train(tiny(recipe.name, "stages.1.training.steps=2"), run.directory.path, resume=True)


def test_a_resumed_run_follows_the_schedule_of_its_recipe(tmp_path: Path) -> None:
    def sft(*changes: str) -> Recipe:
        return tiny("quickstart-sft", "optim.warmup=0", *changes)

    train(sft(), tmp_path / "run")
    run = train(sft("training.steps=4", "optim.lr=1e-3"), tmp_path / "run", resume=True, allow_changes=True)
    # Of each step's update: the linear schedule of 2 steps from 2e-3, then that of 4 steps from 1e-3.
    assert [row["learning_rate"] for row in run.metrics] == pytest.approx([2e-3, 1e-3, 5e-4, 2.5e-4])
