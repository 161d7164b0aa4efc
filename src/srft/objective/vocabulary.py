"""Per-token quantities of the whole vocabulary, computed where the logits are: functions of log π (C, V), of log π_ref
(C, V) where the method needs the reference's distribution, and of the method's options, that give (C,)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Quantity = Callable[[Tensor, Tensor | None, Mapping[str, Any]], Tensor]


def kl_to_reference(logp: Tensor, ref_logp: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """KL(π‖π_ref), exact over the vocabulary (SRFT Eq. A1)."""
    assert ref_logp is not None, "the method must declare that it needs the reference's distribution"
    return (logp.exp() * (logp - ref_logp.detach())).sum(-1)


def sharpened_logp(logp: Tensor, ref_logp: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Σ_v q_v · log π(v), q = sg softmax(log π / β): what GEM subtracts from a token's log π."""
    return ((logp.detach() / options["beta"]).softmax(-1) * logp).sum(-1)


def branching_factor(logp: Tensor, ref_logp: Tensor | None = None, options: Mapping[str, Any] | None = None) -> Tensor:
    """The size of the smallest set of tokens whose probability sums to at least 0.95 (exploration study, §1.2)."""
    mass = logp.exp().sort(-1, descending=True).values.cumsum(-1)
    return (mass < 0.95).sum(-1).clamp(max=logp.shape[-1] - 1) + 1
