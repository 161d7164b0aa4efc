"""The vocabulary of every method: the response tokens of a micro-batch, flat, and the table of the step's responses.

No padding and no masks: a view (`t.demo`, `t.rollout.correct`, …) holds just its tokens, and knows how many tokens and
responses it has in the *whole* optimizer step, which is what its terms are divided by (`terms.aggregate`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Responses:
    """Every response of one optimizer step, over all its micro-batches and all ranks.

    Args:
        reward: (S,) verifier's score, 1 for right.
        group: (S,) which prompt it answers; responses of one prompt share an id.
        is_demo: (S,) True for an expert demonstration, False for the policy's own rollout.
        length: (S,) number of response tokens.
        limit: the longest response the run allows, in tokens (divisor of the aggregation "constant").
        entropy: (S,) mean token entropy (nats) before the first update on this batch; only where a method needs it.
    """

    reward: Tensor
    group: Tensor
    is_demo: Tensor
    length: Tensor
    limit: int
    entropy: Tensor | None = None

    def to(self, device: torch.device | str) -> Responses:
        """The same table on another device."""
        values: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Responses(**values)


@dataclass(frozen=True)
class Tokens:
    """Response tokens of one micro-batch, or a view of some of them.

    Args:
        logp: (N,) log π of each token, in the graph.
        entropy: (N,) entropy of π over the full vocabulary at each token (nats), in the graph.
        row: (N,) the token's response, as a row of `step`.
        step: the step's responses, the same for every micro-batch and rank.
        selected: (S,) bool, the responses of the step that this view holds (all where None was given).
        old_logp: (N,) log π_old; where None, π_old is π before this update, so the ratio is 1.
        ref_logp: (N,) log π_ref of the frozen reference, for methods that need it.
        advantage: (N,) A of each token.
    """

    logp: Tensor
    entropy: Tensor
    row: Tensor
    step: Responses
    selected: Tensor | None = None
    old_logp: Tensor | None = None
    ref_logp: Tensor | None = None
    advantage: Tensor | None = None

    def where(self, responses: Tensor) -> Tokens:
        """The view of the responses of the step for which `responses` (S,) is true."""
        keep = responses[self.row]
        return replace(
            self,
            selected=self.rows & responses,
            **{name: x[keep] for name, x in self._per_token().items()},
        )

    def with_advantage(self, advantage: Tensor) -> Tokens:
        """The same tokens, each with the advantage (S,) of its response."""
        return replace(self, advantage=advantage.to(self.logp.dtype)[self.row])

    def _per_token(self) -> dict[str, Any]:
        names = ("logp", "entropy", "row", "old_logp", "ref_logp", "advantage")
        return {name: x for name in names if (x := getattr(self, name)) is not None}

    @property
    def rows(self) -> Tensor:
        """(S,) bool: the responses of the step that this view holds."""
        return torch.ones_like(self.step.is_demo) if self.selected is None else self.selected

    @property
    def demo(self) -> Tokens:
        return self.where(self.step.is_demo)

    @property
    def rollout(self) -> Tokens:
        return self.where(~self.step.is_demo)

    @property
    def correct(self) -> Tokens:
        return self.where(self.step.reward >= 1)

    @property
    def wrong(self) -> Tokens:
        return self.where(self.step.reward < 1)

    @property
    def token_count(self) -> Tensor:
        """Tokens of this view in the whole step."""
        return (self.step.length * self.rows).sum()

    @property
    def response_count(self) -> Tensor:
        """Responses of this view in the whole step."""
        return self.rows.sum()

    @property
    def prob(self) -> Tensor:
        """(N,) π of each token, in the graph."""
        return self.logp.exp()

    @property
    def ratio(self) -> Tensor:
        """(N,) ρ = π / π_old."""
        old = (self.logp if self.old_logp is None else self.old_logp).detach()
        return (self.logp - old).exp()
