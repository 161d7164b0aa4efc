"""Dynamic sampling: groups without signal are replaced from further prompts (DAPO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from srft.objective.registry import Need
from srft.processes import gather
from srft.section import Section
from srft.training.collect import CollectedStep, Draw
from srft.training.hooks import Hook, HookContext
from srft.training.metrics import describe

GROUPS = describe("groups", "groups of the step after refilling")
GROUPS_DRAWN = describe("groups_drawn", "groups sampled for the step, those dropped included")


class Refill(Hook):
    """Groups whose rollouts are all right or all wrong are replaced, for so many rounds (DAPO, arXiv 2503.14476)."""

    name: ClassVar[str] = "refill"

    class Options(Section):
        """Dynamic sampling: groups that are all right or all wrong are replaced (DAPO)."""

        rounds: int = Field(10, gt=0, description="of further prompts; then the step has fewer groups")

    def __init__(self, options: Options, context: HookContext) -> None:
        self.rounds, self.accelerator = options.rounds, context.accelerator
        self.drawn = 0

    def collect(self, draw: Draw, count: int, needs: frozenset[Need]) -> CollectedStep:
        """`count` groups with right and wrong rollouts, or fewer."""
        if "rollouts" not in needs:
            self.drawn = count
            return draw(count)
        kept, total, self.drawn = CollectedStep((), (), needs), 0, 0
        for _ in range(self.rounds + 1):
            self.drawn += count - total
            part = draw(count - total)
            mixed = {r.group_id for r in part.rollouts if r.is_correct}
            mixed &= {r.group_id for r in part.rollouts if not r.is_correct}
            kept += part.only(mixed)
            total = len(gather(self.accelerator, [g.group_id for g in kept.groups]))
            if total == count:
                break
        return kept

    def after_update(self, step: int, collected: CollectedStep, metrics: Mapping[str, float]) -> dict[str, float]:
        """How many groups the step has, and how many it drew."""
        return {GROUPS: len(gather(self.accelerator, [g.group_id for g in collected.groups])), GROUPS_DRAWN: self.drawn}
