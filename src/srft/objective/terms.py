"""The primitives that losses are made of. Each takes a view and gives a scalar, divided by that view's count over the
whole optimizer step: the sum of a term over micro-batches and ranks is the term of the step, however it was cut."""

from __future__ import annotations

from math import inf
from typing import Literal

import torch
from torch import Tensor

from srft.objective.tokens import Tokens

Aggregation = Literal["token-mean", "sequence-mean", "token-sum", "constant"]
EntropyScope = Literal["sample", "batch", "token"]


def aggregate(t: Tokens, x: Tensor, how: Aggregation = "token-mean") -> Tensor:
    """Sum x (N,) over the view's tokens and divide by one count of the whole step; an empty view gives a zero that
    still has a graph.

    token-mean: Σ / tokens.  sequence-mean: mean over responses of the mean over tokens (SRFT Eq. 3).
    token-sum: Σ / responses.  constant: Σ / (responses · limit) (Dr. GRPO).
    """
    if how == "token-mean":
        return x.sum() / t.token_count.clamp(min=1)
    responses = t.response_count.clamp(min=1)
    if how == "sequence-mean":
        return (x / t.step.length[t.row]).sum() / responses
    if how == "token-sum":
        return x.sum() / responses
    if how == "constant":
        return x.sum() / (responses * t.step.limit)
    raise ValueError(f"unknown aggregation {how!r}")


def nll(t: Tokens, weight: Tensor | float = 1.0, how: Aggregation = "token-mean") -> Tensor:
    """E[−w · log π] (SRFT Eqs. 1, 5, 8)."""
    return aggregate(t, -weight * t.logp, how)


def policy_gradient(t: Tokens, ratio: Tensor, how: Aggregation = "token-mean") -> Tensor:
    """−E[ratio · A], unclipped (SRFT Eq. 9 as its text has it)."""
    return aggregate(t, -ratio * _advantage(t), how)


def clipped(
    t: Tokens, low: float = 0.2, high: float = 0.2, weight: Tensor | float = 1.0, how: Aggregation = "token-mean"
) -> Tensor:
    """−E[w · min(ρA, clip(ρ, 1−low, 1+high)·A)], ρ = π/π_old (SRFT Eq. 3)."""
    a, rho = _advantage(t), t.ratio
    return aggregate(t, -weight * torch.minimum(rho * a, rho.clamp(1 - low, 1 + high) * a), how)


def kl(t: Tokens, how: Aggregation = "token-mean") -> Tensor:
    """E[π_ref/π − log(π_ref/π) − 1], the non-negative sample estimate of KL(π‖π_ref) that GRPO uses."""
    assert t.ref_logp is not None, "the method must declare that it needs a reference"
    log_ratio = t.ref_logp.detach() - t.logp
    return aggregate(t, log_ratio.exp() - log_ratio - 1, how)


def mean_entropy(t: Tokens, scope: EntropyScope = "sample") -> Tensor:
    """(N,) H(π) for each token, detached: of the token, its sample's mean, or the mean over the view in the step.

    The batch's mean cannot be had from one micro-batch; it is taken from `step.entropy`, measured before the first
    update on the batch.
    """
    if scope == "token":
        return t.entropy.detach()
    if scope == "sample":
        total = torch.zeros_like(t.step.length, dtype=t.entropy.dtype).index_add(0, t.row, t.entropy.detach())
        return (total / t.step.length.clamp(min=1))[t.row]
    assert t.step.entropy is not None, "the method must declare that it needs the step's entropy"
    mass = torch.where(t.rows, t.step.entropy.detach() * t.step.length, 0.0)
    total = mass.sum() / t.token_count.clamp(min=1)
    return total.to(t.entropy.dtype).expand(t.row.shape)


def entropy_weight(t: Tokens, sign: int, scope: EntropyScope = "sample", cap: float | None = None) -> Tensor:
    """(N,) sg(exp(±H)): sign −1 for w_SFT (SRFT Eq. 8), +1 for w_RL (Eq. 12). `cap` bounds H (nats) inside exp."""
    return (sign * mean_entropy(t, scope).clamp(max=inf if cap is None else cap)).exp()


def floor_logp(t: Tokens, floor: float | None) -> Tensor:
    """(N,) log π without gradient where it is below `floor`: what is improbable enough is not pushed further down."""
    return t.logp if floor is None else torch.where(t.logp < floor, t.logp.detach(), t.logp)


def luffy_shaping(ratio: Tensor, gamma: float = 0.1) -> Tensor:
    """f(x) = x / (x + γ) (LUFFY's policy shaping): lifts the gradient of improbable tokens."""
    return ratio / (ratio + gamma)


def _advantage(t: Tokens) -> Tensor:
    assert t.advantage is not None, "give the tokens an advantage first: t.with_advantage(group_advantage(t))"
    return t.advantage
