"""The runs that the drills kill: every registered method, and what else a checkpoint or a run directory can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srft import load_recipe
from srft.recipe.schema import Recipe
from tests.training import sharded_runs

STEPS = 3
EVALUATED = [
    'evaluation.sets={"test": {"path": "srft:arithmetic/test.jsonl", "limit": 2}, '
    '"ood": {"path": "srft:arithmetic/ood.jsonl", "limit": 2}}',
    "evaluation.sampling.n=2", "evaluation.every=2", "training.checkpoint_every=1", "verify.function=null",
]  # fmt: skip
OTHERS: dict[str, tuple[str, list[str]]] = {  # method, and what is changed of its quickstart
    "lora": ("grpo", ["model.lora.rank=2", "method.kl_weight=0.1"]),
    "every other step": ("srft", ["training.checkpoint_every=2", "evaluation.every=1"]),
    "best checkpoint": ("grpo", ["training.best.metric=test/avg", "training.keep_checkpoints=1", "evaluation.every=1"]),
    "no checkpoint before the end": ("sft", ["training.checkpoint_every=0"]),
    "saved beside the training": ("ppo", ["training.checkpoint_async=true"]),
    "refill": ("dapo", ["hooks.refill.rounds=2"]),
    "two updates": ("sft+rl", ["optim.updates_per_batch=2"]),
    "schedule": ("sft", ["optim.schedule=cosine", "optim.warmup=0.4"]),
}
STAGES = [
    {"method": {"name": "sft"}},
    {"method": {"name": "ppo"}},
    {"method": {"name": "rft"}, "data": {"selection": {"keep": "correct", "n": 2}}},
]
PAIRS = {"selection": {"keep": "pairs", "n": 4}}


def grade(completions: list[str], **_: Any) -> list[float]:
    """A reward that finds some responses of a random model right."""
    return [float(sum(map(ord, text)) % 2) for text in completions]


def names() -> list[str]:
    """Every case: the registry's methods first."""
    return [*sharded_runs.recipes_of_methods(), "dpo", "stages", *OTHERS]


def recipe_of(case: str, folder: Path) -> Recipe:
    """The case's recipe, on the model in `folder`."""
    short = ["training.steps=2", "training.epochs=null", "training.prompts_per_step=4"]
    if case in ("stages", "dpo"):
        model = [f"model.path={folder}/model", *(word for word in sharded_runs.SMALL if "data.limit" not in word)]
        stages = STAGES if case == "stages" else [{"method": {"name": "dpo"}, "data": PAIRS}]
        source = {"extends": "quickstart", "name": case, "data": {"limit": 8}, "stages": stages}
        return load_recipe(source, [*model, *short, *EVALUATED[:-1], "optim.lr=1e-3"])
    method, changes = OTHERS.get(case, (case, []))
    name = sharded_runs.recipes_of_methods()[method]
    return sharded_runs.small(folder, name, STEPS, [*EVALUATED, "optim.lr=1e-3", *changes])
