"""The vocabulary of every method: the response tokens of a micro-batch, flat, and the table of the step's responses.

No padding and no masks: a view (`t.demo`, `t.rollout.correct`, …) holds just its tokens, and knows how many tokens and
responses it has in the *whole* optimizer step, which is what its terms are divided by (`terms.aggregate`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Responses:
    """Every response of one optimizer step, over all its micro-batches and all ranks.

    The example is a step of one prompt with two rollouts, of which the first is right, and a demonstration: S = 3.

    Args:
        reward: (S,) float, the verifier's score; e.g. [1.0, 0.0, 1.0].
        group: (S,) int, the prompt that each answers; responses of one prompt share an id; e.g. [0, 0, 0].
        is_demo: (S,) bool, an expert demonstration, else the policy's own rollout; e.g. [False, False, True].
        length: (S,) int, response tokens, EOS included; e.g. [1, 1, 2].
        limit: the longest response the run allows, in tokens (divisor of the aggregation "constant"); e.g. 8192.
        step: the step's place in the run (or in its stage), in optimizer steps from 1; what schedules go by; e.g. 17.
        mean: (S,) float by name, the mean over each response's tokens of what was measured before the first update on
            this batch: "logp" and "entropy" (nats) and what the method measures, only where the method needs it;
            e.g. {"entropy": [0.2, 1.5, 0.7]}.
        right: (S,) bool, which count as right; those of reward 1 or more if left out; e.g. [True, False, True].
    """

    reward: Tensor
    group: Tensor
    is_demo: Tensor
    length: Tensor
    limit: int
    step: int = 1
    mean: Mapping[str, Tensor] = field(default_factory=dict)
    right: Tensor | None = None

    @property
    def is_right(self) -> Tensor:
        """(S,) bool: which count as right."""
        return self.reward >= 1 if self.right is None else self.right

    def to(self, device: torch.device | str) -> Responses:
        """The same table on another device."""
        values: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Responses(**values | {"mean": {name: x.to(device) for name, x in self.mean.items()}})


@dataclass(frozen=True)
class Tokens:
    """Response tokens of one micro-batch, or a view of some of them; a response is in it whole and in order.

    The example goes on: the four tokens of those three responses, N = 4.

    Args:
        logp: (N,) float (nats), log π of each token, in the graph; e.g. [-0.1, -2.0, -0.3, -1.2].
        entropy: (N,) float (nats), entropy of π over the full vocabulary at each token, in the graph;
            e.g. [0.2, 1.5, 0.4, 1.0].
        row: (N,) int, the token's response, as a row of `responses`; e.g. [0, 1, 2, 2].
        responses: the table of the whole step, the same for every micro-batch and rank.
        selected: (S,) bool, the responses of the step that this view holds, all where None; e.g. `t.demo` has
            [False, False, True].
        old_logp: (N,) float (nats), log π_old; where None, π_old is π before this update, so the ratio is 1;
            e.g. [-0.1, -1.9, -0.3, -1.2].
        ref_logp: (N,) float (nats), log π_ref of the frozen reference, for methods that need it;
            e.g. [-0.2, -2.1, -0.5, -1.4].
        advantage: (N,) float (rewards), A of each token; e.g. [0.58, -1.15, 0.58, 0.58].
        value: (N,) float (rewards), the critic's V at each token, in the graph; e.g. [0.7, 0.4, 0.8, 0.9].
        old_value: (N,) the same before the first update on the batch.
        reward_logp: (N,) float (nats), log π_φ of the implicit reward model, in the graph;
            e.g. [-0.1, -2.2, -0.3, -1.1].
        old_reward_logp: (N,) the same before the first update on the batch.
        vocabulary: (N,) float by name, what the method asked for of the whole vocabulary, in the graph;
            e.g. {"kl": [0.01, 0.2, 0.0, 0.1]}.
        shaping: changes to every advantage, in order: functions of the tokens that give (N,); e.g. (ppl_shaping,).
        record: where `observe` adds up what a method shows of itself: name → (sum, tokens);
            e.g. {"mu": (3.6, 4)}.
    """

    logp: Tensor
    entropy: Tensor
    row: Tensor
    responses: Responses
    selected: Tensor | None = None
    old_logp: Tensor | None = None
    ref_logp: Tensor | None = None
    advantage: Tensor | None = None
    value: Tensor | None = None
    old_value: Tensor | None = None
    reward_logp: Tensor | None = None
    old_reward_logp: Tensor | None = None
    vocabulary: Mapping[str, Tensor] = field(default_factory=dict)
    shaping: tuple[Callable[[Tokens], Tensor], ...] = ()
    record: dict[str, tuple[Tensor, int]] | None = None

    def where(self, rows: Tensor) -> Tokens:
        """The view of the responses of the step for which `rows` (S,) is true."""
        names = ("logp", "entropy", "row", *PER_TOKEN)
        keep = rows[self.row].nonzero()[:, 0]  # once: on a GPU it waits for the host
        chosen: dict[str, Any] = {name: x[keep] for name in names if (x := getattr(self, name)) is not None}
        vocabulary = {name: x[keep] for name, x in self.vocabulary.items()}
        return replace(self, selected=self.rows & rows, vocabulary=vocabulary, **chosen)

    def frozen(self, tokens: Tensor) -> Tokens:
        """The same tokens, no gradient through log π where `tokens` (N,) is true."""
        return replace(self, logp=torch.where(tokens, self.logp.detach(), self.logp))

    def with_advantage(self, advantage: Tensor) -> Tokens:
        """The same tokens, each with the advantage (S,) of its response, shaped."""
        return self.with_token_advantage(advantage.to(self.logp.dtype)[self.row])

    def with_token_advantage(self, advantage: Tensor) -> Tokens:
        """The same tokens, each with its own advantage (N,), shaped."""
        t = replace(self, advantage=advantage)
        for shape in self.shaping:
            t = replace(t, advantage=shape(t))
        return t

    def observe(self, name: str, x: Tensor) -> None:
        """Show x (N,) among the step's metrics, as its mean over the tokens it is given for."""
        if self.record is not None:
            total, count = self.record.get(name, (0.0, 0))
            self.record[name] = (total + x.detach().double().sum(), count + x.numel())

    @property
    def rows(self) -> Tensor:
        """(S,) bool: the responses of the step that this view holds."""
        return torch.ones_like(self.responses.is_demo) if self.selected is None else self.selected

    @property
    def demo(self) -> Tokens:
        return self.where(self.responses.is_demo)

    @property
    def rollout(self) -> Tokens:
        return self.where(~self.responses.is_demo)

    @property
    def correct(self) -> Tokens:
        return self.where(self.responses.is_right)

    @property
    def wrong(self) -> Tokens:
        return self.where(~self.responses.is_right)

    @property
    def token_count(self) -> Tensor:
        """Tokens of this view in the whole step."""
        return (self.responses.length * self.rows).sum()

    @property
    def response_count(self) -> Tensor:
        """Responses of this view in the whole step."""
        return self.rows.sum()

    @property
    def position(self) -> Tensor:
        """(N,) each token's place in its response, from 0."""
        order = torch.argsort(self.row, stable=True)
        counts = torch.bincount(self.row, minlength=len(self.responses.length))
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[self.row[order]]
        return torch.empty_like(order).index_copy(0, order, place)

    @property
    def prob(self) -> Tensor:
        """(N,) π of each token, in the graph."""
        return self.logp.exp()

    @property
    def ratio(self) -> Tensor:
        """(N,) ρ = π / π_old."""
        old = (self.logp if self.old_logp is None else self.old_logp).detach()
        return (self.logp - old).exp()

    def step_mean(self, name: str) -> Tensor:
        """float64: the mean over this view's tokens of the whole step of what was measured before the first update.

        Raises:
            KeyError: it was not measured.
        """
        if name not in self.responses.mean:
            raise KeyError(f"'{name}' was not measured: the method must declare that it needs means")
        return self.token_weighted_mean(self.responses.mean[name].detach())

    def token_weighted_mean(self, x: Tensor) -> Tensor:
        """float64: the mean of x (S,) over this view's tokens of the whole step, each with its response's x."""
        total = torch.where(self.rows, x.double() * self.responses.length, 0.0).sum()
        return total / self.token_count.clamp(min=1)


PER_TOKEN = ("old_logp", "ref_logp", "advantage", "value", "old_value", "reward_logp", "old_reward_logp")
