"""The primitives that losses are made of. Each takes a view and gives a scalar, divided by that view's count over the
whole optimizer step: the sum of a term over micro-batches and ranks is the term of the step, however it was cut."""

from __future__ import annotations

from math import cos, inf, pi
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from srft.errors import SrftError
from srft.objective.tokens import Tokens

Aggregation = Literal["token-mean", "sequence-mean", "token-sum", "constant"]
EntropyScope = Literal["sample", "batch", "token"]


def aggregate(t: Tokens, x: Tensor, how: Aggregation = "token-mean", over: Tokens | None = None) -> Tensor:
    """Sum x (N,) over the view's tokens and divide by one count of the whole step; an empty view gives a zero that
    still has a graph.

    token-mean: Σ / tokens.  sequence-mean: mean over responses of the mean over tokens (SRFT Eq. 3).
    token-sum: Σ / responses.  constant: Σ / (responses · limit) (Dr. GRPO).  `over`: the view that is counted, where
    two terms share one count.
    """
    counted = t if over is None else over
    if how == "token-mean":
        return x.sum() / counted.token_count.clamp(min=1)
    responses = counted.response_count.clamp(min=1)
    if how == "sequence-mean":
        return (x / t.responses.length[t.row]).sum() / responses
    if how == "token-sum":
        return x.sum() / responses
    if how == "constant":
        return x.sum() / (responses * t.responses.limit)
    raise ValueError(f"unknown aggregation {how!r}")


def nll(t: Tokens, weight: Tensor | float = 1.0, how: Aggregation = "token-mean", over: Tokens | None = None) -> Tensor:
    """E[−w · log π] (SRFT Eqs. 1, 5, 8)."""
    return aggregate(t, -weight * t.logp, how, over)


def policy_gradient(t: Tokens, ratio: Tensor, how: Aggregation = "token-mean", over: Tokens | None = None) -> Tensor:
    """−E[ratio · A], unclipped (SRFT Eq. 9 as its text has it)."""
    return aggregate(t, -ratio * _required(t.advantage), how, over)


def clipped(
    t: Tokens,
    low: float = 0.2,
    high: float = 0.2,
    weight: Tensor | float = 1.0,
    how: Aggregation = "token-mean",
    *,
    dual: float | None = None,
    over: Tokens | None = None,
    ratio: Tensor | None = None,
) -> Tensor:
    """−E[w · min(ρA, clip(ρ, 1−low, 1+high)·A)] (SRFT Eq. 3); for A < 0 at least `dual`·A (dual clip).

    `ratio` (N,) is ρ, in the graph: π/π_old of each token (`t.ratio`) unless a method gives another, such as the
    geometric mean over the response (GSPO's `response_mean(t, t.ratio.log()).exp()`).
    """
    a, rho = _required(t.advantage), t.ratio if ratio is None else ratio
    bounded = rho.clamp(1 - low, 1 + high) * a
    surrogate = torch.minimum(rho * a, bounded)
    if dual is not None:
        surrogate = torch.where(a < 0, torch.maximum(surrogate, dual * a), surrogate)
    t.observe("clip_ratio/region_mean", (surrogate.detach() != rho * a).double())
    return aggregate(t, -weight * surrogate, how, over)


def kl(t: Tokens, how: Aggregation = "token-mean") -> Tensor:
    """E[π_ref/π − log(π_ref/π) − 1], the non-negative sample estimate of KL(π‖π_ref) that GRPO uses."""
    log_ratio = _required(t.ref_logp).detach() - t.logp
    return aggregate(t, log_ratio.exp() - log_ratio - 1, how)


def value_loss(t: Tokens, returns: Tensor, clip: float = 0.2) -> Tensor:
    """½ E[max((V − R)², (V_clipped − R)²)], V kept within `clip` of what it was before the update (PPO's)."""
    value = _required(t.value)
    old = (value if t.old_value is None else t.old_value).detach()
    value_clipped = old + (value - old).clamp(-clip, clip)
    return 0.5 * aggregate(t, torch.maximum((value - returns) ** 2, (value_clipped - returns) ** 2))


def outcome_loss(t: Tokens, score: Tensor) -> Tensor:
    """E over responses of the cross-entropy between σ(Σ_t score), score (N,), and the reward (PRIME).

    Raises:
        SrftError: a reward is no probability.
    """
    given = t.responses.reward[t.rows]
    if ((given < 0) | (given > 1)).any():
        raise SrftError(
            "its cross-entropy is with rewards between 0 and 1, and others were given",
            where="method prime",
            fix="Scale the functions or their weights in verify.rewards.",
        )
    total = torch.zeros(len(t.responses.length), dtype=score.dtype, device=score.device).index_add(0, t.row, score)
    rows = t.row.unique()  # of this micro-batch alone: the other micro-batches add their own
    reward = t.responses.reward[rows].to(score.dtype)
    loss = F.binary_cross_entropy_with_logits(total[rows], reward, reduction="sum")
    return loss / t.response_count.clamp(min=1)


def response_mean(t: Tokens, x: Tensor) -> Tensor:
    """(N,) the mean of x (N,) over the token's response."""
    total = torch.zeros(len(t.responses.length), dtype=x.dtype, device=x.device).index_add(0, t.row, x)
    return (total / t.responses.length.clamp(min=1))[t.row]


def mean_entropy(t: Tokens, scope: EntropyScope = "sample") -> Tensor:
    """(N,) H(π) for each token, detached: of the token, its sample's mean, or the mean over the view in the step.

    The batch's mean cannot be had from one micro-batch; it is `responses.mean["entropy"]`'s, measured before the first
    update on the batch.
    """
    if scope == "token":
        return t.entropy.detach()
    if scope == "sample":
        return response_mean(t, t.entropy.detach())
    return t.step_mean("entropy").to(t.entropy.dtype).expand(t.row.shape)


def entropy_weight(t: Tokens, sign: int, scope: EntropyScope = "sample", cap: float | None = None) -> Tensor:
    """(N,) sg(exp(±H)): sign −1 for w_SFT (SRFT Eq. 8), +1 for w_RL (Eq. 12). `cap` bounds H (nats) inside exp."""
    return (sign * mean_entropy(t, scope).clamp(max=inf if cap is None else cap)).exp()


def luffy_shaping(ratio: Tensor, gamma: float = 0.1) -> Tensor:
    """f(x) = x / (x + γ) (LUFFY's policy shaping): lifts the gradient of improbable tokens."""
    return ratio / (ratio + gamma)


def warmup_cosine(step: int, warmup: int, peak: float, low: float, decay: int) -> float:
    """A weight at `step` (from 1): 0 to `peak` in `warmup` steps, then to `low` in `decay` steps, as a cosine."""
    decayed = step - 1 - warmup
    if decayed < 0:
        return peak * (step - 1) / warmup
    return low + 0.5 * (peak - low) * (1 + cos(pi * min(decayed / max(decay, 1), 1.0)))


def _required(x: Tensor | None) -> Tensor:
    assert x is not None, "what is used here must be given to the tokens, or declared as a need of the method"
    return x
