"""Correcting for a sampler that is not the policy itself: another engine or precision, or older weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from srft.objective.tokens import Tokens

Correction = Literal["tis", "mask"]


def importance_weight(policy_logp: Tensor, sampler_logp: Tensor, correction: Correction, cap: float) -> Tensor:
    """(N,) w = π_old/π_sampler of each token, detached; 1 where no sampler drew it (its log-prob is nan).

    tis: truncated, min(w, cap). mask: w where it is at most cap, else 0.
    """
    ratio = (policy_logp - sampler_logp).detach().exp()
    weight = ratio.clamp(max=cap) if correction == "tis" else torch.where(ratio <= cap, ratio, 0.0)
    return torch.where(torch.isnan(sampler_logp), 1.0, weight)


def weighted_gradient(t: Tokens, weight: Tensor) -> Tokens:
    """The same tokens, the gradient through log π of each multiplied by its weight (N,). For a loss that is a sum over
    tokens that is the loss with each token weighted; its value stays what it is."""
    return replace(t, logp=weight * t.logp + (1 - weight) * t.logp.detach())
