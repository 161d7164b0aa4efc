"""Importance weights of a sampler that is not the policy."""

from __future__ import annotations

import math

import pytest
import torch

from srft.objective import get_method
from srft.objective.correction import importance_weight, weighted_gradient
from tests.objective.steps import micro_batch, policy, random_step


def test_weights_are_ratios_truncated_or_masked() -> None:
    policy_logp = torch.tensor([0.0, 0.0, 0.0, 0.0]).log_softmax(-1) * 0
    sampler_logp = -torch.tensor([0.5, 2.0, 4.0, math.nan]).log()
    assert importance_weight(policy_logp, sampler_logp, "tis", 2.0).tolist() == pytest.approx([0.5, 2.0, 2.0, 1.0])
    assert importance_weight(policy_logp, sampler_logp, "mask", 2.5).tolist() == pytest.approx([0.5, 2.0, 0.0, 1.0])


def test_a_weighted_gradient_is_that_of_the_weighted_loss() -> None:
    """For GRPO with one update, −Σ w·ρ·A / count."""
    step = random_step()
    rows = list(range(len(step.tokens)))

    def gradient(weigh: bool) -> torch.Tensor:
        model = policy()
        t = micro_batch(model, step, rows)
        weight = torch.rand(len(t.logp), generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2
        if weigh:
            loss = get_method("grpo")(weighted_gradient(t, weight), aggregation="token-mean")["rl"]
        else:
            from srft.objective import clipped, group_advantage

            rollout = t.rollout.with_advantage(group_advantage(t.rollout))
            loss = clipped(rollout, weight=weight[~step.table.is_demo[t.row]])
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    torch.testing.assert_close(gradient(True), gradient(False))


def test_weights_change_no_value() -> None:
    step = random_step()
    t = micro_batch(policy(), step, list(range(len(step.tokens))))
    weighted = weighted_gradient(t, torch.full_like(t.logp, 0.3))
    torch.testing.assert_close(weighted.logp, t.logp)
