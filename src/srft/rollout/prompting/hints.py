"""Rollouts that begin after the first chunks of the solution (UFT)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field

from srft.data.tokenize import Prompt
from srft.rollout.prompting import AskedGroup, Prompting, PromptingContext, Variant
from srft.section import Section
from srft.seed import derive_seed


class Hints(Prompting):
    """Rollouts begin after the solution's first k of `chunks` chunks, k ~ Binomial(chunks, p), p a cosine from `start`
    to `end` over a share of the steps, then 0 (UFT, arXiv 2505.16984). The hint is the step's demonstration."""

    name: ClassVar[str] = "hints"
    reads_demonstrations: ClassVar[bool] = True

    class Options(Section):
        """Rollouts begin after the first chunks of the solution (UFT)."""

        strategy: Literal["hints"] = "hints"
        chunks: int = Field(5, gt=0, description="of a solution (UFT: 5)")
        start: float = Field(0.95, ge=0, le=1, description="p of Binomial(chunks, p) at the first step")
        end: float = Field(0.05, ge=0, le=1, description="p at the last step that has hints")
        steps: float = Field(
            0.6, gt=0, le=1, description="share of the steps over which p falls; then no hint (300 of 500)"
        )

    def __init__(self, options: Options, context: PromptingContext) -> None:
        self.options, self.context = options, context
        self.last_step = round(options.steps * context.steps)

    @property
    def extra_tokens(self) -> int:
        """A hint may be nearly as long as a whole demonstration."""
        return self.context.max_response_length

    def ask(self, prompt: Prompt, n: int, step: int, group_id: int) -> AskedGroup:
        """The hint stands at the end of the prompt, where the grader sees it, and as the demonstration; without a
        demonstration there is none."""
        if not prompt.demonstrations:
            return AskedGroup(prompt, [Variant(prompt, n)])
        solution = prompt.demonstrations[0].token_ids
        length = len(solution) * self.hint_chunks(step, group_id) // self.options.chunks
        hint = solution[: min(length, len(solution) - 1)]
        if not hint:
            return AskedGroup(replace(prompt, demonstrations=()), [Variant(prompt, n)])
        opening = prompt.opening + self.context.tokenizer.decode(hint, skip_special_tokens=True)
        hinted = replace(prompt, token_ids=(*prompt.token_ids, *hint), opening=opening)
        demonstration = replace(prompt.demonstrations[0], token_ids=hint, truncated=True)
        return AskedGroup(replace(prompt, demonstrations=(demonstration,)), [Variant(hinted, n)])

    def hint_chunks(self, step: int, group_id: int) -> int:
        """k of this group in this step."""
        if step > self.last_step:
            return 0
        start, end = self.options.start, self.options.end
        p = end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / self.last_step))
        generator = torch.Generator().manual_seed(derive_seed(self.context.seed, f"hint {step}", group_id))
        return int((torch.rand(self.options.chunks, generator=generator) < p).sum())
