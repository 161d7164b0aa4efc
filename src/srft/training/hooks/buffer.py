"""A buffer of failed prompts, whose demonstrations make updates of their own (ReLIFT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator

from srft.objective.registry import get_method
from srft.processes import gather
from srft.rollout.response import Group
from srft.section import Section
from srft.training.collect import CollectedStep
from srft.training.hooks import Hook, HookContext
from srft.training.metrics import describe
from srft.training.update import TrainedNetwork

SIZE = describe("buffer/size", "prompts that wait in the buffer of failed ones")
LOSS = describe("buffer/loss", "loss of the update on the buffer's demonstrations")
GRAD_NORM = describe("buffer/grad_norm", "gradient norm of that update")


class Buffer(Hook):
    """Prompts with a demonstration whose rollouts all failed wait until there are `size`; then one update on their
    demonstrations, with an optimizer of its own (ReLIFT, arXiv 2506.07527)."""

    name: ClassVar[str] = "buffer"
    reads_demonstrations: ClassVar[bool] = True

    class Options(Section):
        """Updates on the demonstrations of prompts whose rollouts all failed (ReLIFT)."""

        size: int = Field(128, gt=0, description="demonstrations of one update (ReLIFT: 128)")
        lr: float | None = Field(None, gt=0, description="of its own AdamW; optim.lr if left out")
        method: str = Field("sft", description="what is learnt from them")

        @field_validator("method")
        @classmethod
        def _of_demonstrations(cls, name: str) -> str:
            needs = get_method(name).needs({})
            if needs != {"demonstrations"}:
                raise ValueError(f"'{name}' needs {', '.join(sorted(needs))}; the buffer has demonstrations alone")
            return name

    def __init__(self, options: Options, context: HookContext) -> None:
        self.size, self.context = options.size, context
        self.updater = context.make_updater(options.method, options.lr)
        self.waiting: list[int] = []  # indices of prompts, the newest first
        self._index = {id(prompt): i for i, prompt in enumerate(context.prompts)}

    def after_update(self, step: int, collected: CollectedStep, metrics: Mapping[str, float]) -> dict[str, float]:
        """Keep this step's failed prompts; learn from `size` of them where there are so many."""
        if "rollouts" not in collected.needs:
            return {}  # nothing was tried
        accelerator = self.context.accelerator
        rank, ranks = accelerator.process_index, accelerator.num_processes
        solved = {r.group_id for r in collected.rollouts if r.is_correct}
        failing = {r.group_id for r in collected.rollouts} - solved
        taught = [g for g in collected.groups if g.prompt.demonstrations]
        failed = [(g.group_id, self._index[id(g.prompt)]) for g in taught if g.group_id in failing]
        self.waiting = [index for _, index in sorted(gather(accelerator, failed))] + self.waiting
        if len(self.waiting) < self.size:
            return {SIZE: len(self.waiting)}
        chosen, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
        mine = [Group(i, self.context.prompts[index]) for i, index in enumerate(chosen)][rank::ranks]
        demonstrations = self.context.collector.demonstrations(mine, self.context.demonstrations)
        learnt = self.updater.update(self.context.batcher.make(demonstrations, step))
        return {SIZE: len(self.waiting), LOSS: learnt["loss"], GRAD_NORM: learnt["grad_norm"]}

    def networks(self) -> dict[str, TrainedNetwork]:
        """The policy, under the buffer's own optimizer."""
        return {"buffer": self.updater.policy}

    def state(self) -> dict[str, Any]:
        """The waiting prompts."""
        return {"waiting": self.waiting}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The waiting prompts."""
        self.waiting = list(state["waiting"])
