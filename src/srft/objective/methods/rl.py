"""Reinforcement-learning methods: the policy's own rollouts alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srft.objective.advantage import group_advantage
from srft.objective.registry import Need, Terms, method
from srft.objective.terms import Aggregation, clipped, kl
from srft.objective.tokens import Tokens


def _needs(options: Mapping[str, Any]) -> set[Need]:
    return {"rollouts", "old_logp"} | ({"reference"} if options["kl_weight"] else set())  # type: ignore[return-value]


@method("grpo", needs=_needs)
def grpo(
    t: Tokens,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    advantage_std: bool = True,
    kl_weight: float = 0.0,
    aggregation: Aggregation = "sequence-mean",
) -> Terms:
    """Group relative policy optimization: −min(ρA, clip(ρ)A), A within the group (SRFT Eqs. 2, 3)."""
    t = t.rollout
    t = t.with_advantage(group_advantage(t, advantage_std))  # Eq. 2
    terms = {"rl": clipped(t, clip_low, clip_high, how=aggregation)}  # Eq. 3
    if kl_weight:
        terms["kl"] = kl_weight * kl(t, aggregation)
    return terms
