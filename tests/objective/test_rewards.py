"""Rewards that are not 0 and 1: what is right is told apart by `Responses.right`, and means the same in every method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from srft import SrftError, get_method, methods
from srft.objective import group_advantage
from tests.objective.steps import Step, gradient, random_step

ROWS = 4 * 5  # groups of four rollouts and a demonstration
REWARDS = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
# A itself is of the rewards' scale: half the reward, half the advantage.
OF_THE_SCALE = {"dr-grpo", "hpt", "ppo", "prime"}
OWN_LOOP = sorted(name for name, m in methods().items() if "preferences" not in m.needs(m.defaults({})))


def halved(step: Step) -> Step:
    """Half of each reward; what was right still is."""
    table = step.table
    return replace(step, table=replace(table, reward=table.reward / 2, right=table.reward >= 1))


@pytest.mark.parametrize("name", OWN_LOOP)
def test_what_is_right_does_not_hang_on_the_rewards_scale(name: str) -> None:
    step, method = random_step(rewards=REWARDS), get_method(name)
    _, whole = gradient(method, {}, step, [range(ROWS)])
    _, half = gradient(method, {}, halved(step), [range(ROWS)])
    if name in OF_THE_SCALE:
        assert float((whole - half).norm()) > 1e-4
    elif name == "dapo":  # rewards of ±1 less the penalty: the penalty alone keeps its size
        _, plain = gradient(method, {"overlong_buffer": 0.0}, step, [range(ROWS)])
        _, plain_half = gradient(method, {"overlong_buffer": 0.0}, halved(step), [range(ROWS)])
        torch.testing.assert_close(plain, plain_half, rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(whole, half, rtol=1e-4, atol=1e-5)


def test_views_and_gates_go_by_what_is_right() -> None:
    """hpt's gate: with every reward 0.5 and right, no prompt is learnt from its demonstration."""
    step = random_step(rewards=[0.5] * ROWS)
    right = replace(step, table=replace(step.table, right=torch.ones(ROWS, dtype=torch.bool)))
    supervised = [gradient(get_method("hpt"), {}, one, [range(ROWS)])[0] for one in (step, right)]
    assert supervised[0] > 0 == supervised[1]


def test_a_demonstration_that_grades_wrong_is_pushed_down_by_its_advantage_alone() -> None:
    """SRFT Eqs. 7 to 9: SFT on it as on any other, and a negative A where the group's rollouts are right."""
    step = random_step(groups=1, rewards=[1.0, 1.0, 0.0, 1.0, 0.0])
    assert float(group_advantage(_tokens(step))[4]) < 0
    assert float(group_advantage(_tokens(random_step(groups=1, rewards=[0.0, 1.0, 0.0, 0.0, 1.0])))[4]) > 0


def test_prime_refuses_rewards_that_are_no_probabilities() -> None:
    step = random_step(rewards=[2 * r for r in REWARDS])
    with pytest.raises(SrftError, match="between 0 and 1"):
        gradient(get_method("prime"), {}, step, [range(ROWS)])


def _tokens(step: Step):
    from tests.objective.steps import micro_batch, policy

    return micro_batch(policy(), step, range(len(step.tokens)))
