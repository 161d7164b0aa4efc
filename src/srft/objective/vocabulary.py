"""Per-token quantities of the whole vocabulary, computed where the logits are: functions of log π (C, V), of log π_ref
(C, V) where the method needs the reference's distribution, and of the method's options, that give (C,)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
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
    """(C,) the size of the smallest set of tokens whose probability sums to at least 0.95 (exploration study, §1.2)."""
    probs = logp.detach().exp()
    size = torch.zeros(len(probs), dtype=torch.long, device=probs.device)
    rows, count = (
        torch.arange(len(probs), device=probs.device),
        32,
    )  # a few nearly always do, so few are sorted at first
    while len(rows):
        count = min(count, probs.shape[-1])
        mass = probs[rows].topk(count, sorted=True).values.cumsum(-1)
        size[rows] = ((mass < 0.95).sum(-1) + 1).clamp(max=count)
        if count == probs.shape[-1]:
            break
        rows, count = rows[mass[:, -1] < 0.95], count * 16
    return size
