"""The updates that verl's workers and the local updater are compared on: shared by the test and its workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from srft.recipe.load import load_recipe
from srft.recipe.schema import Recipe

LR, TOKENS = 1e-4, 700


@dataclass(frozen=True)
class Case:
    """A recipe's method and what it changes; `updates` on one step's responses."""

    name: str
    method: str
    updates: int = 1
    changes: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        fixed: list[Any] = [f"method.name={self.method}", f"optim.updates_per_batch={self.updates}", *self.changes]
        return load_recipe("quickstart", ["training.precision=fp32", "hooks={}", *fixed])


CASES = [
    Case("srft", "srft"),
    Case("srft, means", "srft", changes=["method.entropy_scope=batch"]),
    Case("sft", "sft"),
    Case("gem", "gem"),
    Case("grpo, two updates", "grpo", 2),
    Case("grpo, reference", "grpo", changes=["method.kl_weight=0.1"]),
    Case("grpo, shaped", "grpo", changes=["advantage.ppl.alpha=0.05", "advantage.position.alpha=0.1"]),
    Case("grpo, corrected", "grpo", changes=["rollout.correction=tis"]),
    Case("luffy", "luffy"),
    Case("psft, two updates", "psft", 2),
    Case("hpt, two updates", "hpt", 2),
    Case("sft+rl", "sft+rl"),
]
