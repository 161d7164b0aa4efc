"""Advantages: how much better a response is than the others of its group."""

from __future__ import annotations

import torch
from torch import Tensor

from srft.objective.tokens import Tokens


def group_advantage(t: Tokens, std: bool = True, eps: float = 1e-6) -> Tensor:
    """(S,) A = (r − mean) / std over the view's responses of each prompt (SRFT Eqs. 2, 7); 0 outside the view.

    On `t` the group holds demonstrations and rollouts together (Eq. 7), on `t.rollout` the rollouts alone (Eq. 2).
    The deviation is the unbiased one, as in verl and TRL; a group of one, or of equal rewards, has A = 0.
    """
    rows = t.rows
    _, group = torch.unique(t.step.group, return_inverse=True)
    reward = torch.where(rows, t.step.reward.double(), 0.0)
    zeros = torch.zeros(int(group.max()) + 1 if group.numel() else 0, dtype=torch.double, device=reward.device)
    n = zeros.index_add(0, group, rows.double())
    mean = zeros.index_add(0, group, reward) / n.clamp(min=1)
    centred = torch.where(rows, t.step.reward - mean[group], 0.0)
    if not std:
        return centred
    deviation = (zeros.index_add(0, group, centred**2) / (n - 1).clamp(min=1)).sqrt()
    return centred / (deviation[group] + eps)
