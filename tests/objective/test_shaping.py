"""Advantage shaping by perplexity and by position, and the branching factor: slow loops and properties."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import exp, floor
from statistics import fmean, pstdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srft.objective import (
    Responses,
    Tokens,
    branching_factor,
    get_method,
    group_advantage,
    grpo,
    methods,
    position_shaping,
    ppl_shaping,
)
from tests.objective.slow import Numbers, slope
from tests.objective.steps import micro_batch, policy, random_step

STEP = random_step(groups=3, rollouts=5, demos=1, seed=41)
ROWS = list(range(len(STEP.tokens)))


def responses(mean_logp: list[float], reward: list[float], demo: list[bool] | None = None, length: int = 2) -> Tokens:
    """Responses to one prompt, with the mean log π_old of each; the advantage is reward − ½."""
    n = len(reward)
    table = Responses(
        torch.tensor(reward, dtype=torch.float64), torch.zeros(n).long(), torch.tensor(demo or [False] * n),
        torch.full((n,), length), limit=64, mean={"logp": torch.tensor(mean_logp, dtype=torch.float64)},
    )  # fmt: skip
    row = torch.arange(n).repeat_interleave(length)
    logp = torch.full((n * length,), -1.0, dtype=torch.float64)
    return Tokens(logp, logp, row, table, advantage=(table.reward - 0.5)[row])


def quantile(values: list[float], q: float) -> float:
    """Linear between neighbours."""
    values, place = sorted(values), q * (len(values) - 1)
    low = floor(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def factors(surprise: list[float], alpha: float) -> list[float]:
    """clamp(1 − α·w, 0.8, 1.2), w over the deviation of what is no outlier."""
    low, high = quantile(surprise, 0.25), quantile(surprise, 0.75)
    reach = 1.5 * (high - low)
    usual = [x for x in surprise if low - reach <= x <= high + reach]
    spread = pstdev(usual)
    w = [(x - fmean(usual)) / (spread if spread > 1e-6 else 1.0) for x in surprise]
    return [min(max(1 - alpha * x, 0.8), 1.2) for x in w]


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.5])
def test_ppl_shaping_is_the_slow_loop(alpha: float) -> None:
    t = micro_batch(policy(), STEP, ROWS).rollout
    t = t.with_advantage(group_advantage(t))
    n = Numbers(policy(), STEP)
    a, expected = n.advantage(n.rollouts), {}
    for group in set(n.group):
        rows = [i for i in n.rollouts if n.group[i] == group]
        for i, f in zip(rows, factors([-fmean(n.old[i]) for i in rows], alpha), strict=True):
            expected[i] = a[i] * f
    actual = ppl_shaping(t, alpha)
    torch.testing.assert_close(actual, torch.tensor([expected[i] for i in t.row.tolist()], dtype=torch.float64))
    assert (actual != t.advantage).any()
    mixed = [9, 3, 1]  # some responses of the step, in any order
    part = micro_batch(policy(), STEP, mixed)
    part = part.with_advantage(group_advantage(part.rollout))
    shaped = torch.tensor([expected[i] for i in part.row.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ppl_shaping(part, alpha), shaped)


LOGPS = st.lists(st.floats(-5, -0.01), min_size=3, max_size=8, unique=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(logp=LOGPS, alpha=st.floats(0.001, 0.3), data=st.data())
def test_ppl_shaping_keeps_signs_and_favours_the_confident(logp: list[float], alpha: float, data) -> None:
    reward = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(logp), max_size=len(logp)))
    t = responses(logp, reward)
    assert t.advantage is not None
    actual, before = ppl_shaping(t, alpha)[::2], t.advantage[::2]
    assert torch.equal(actual.sign(), before.sign())
    assert ((actual / before >= 0.8 - 1e-12) & (actual / before <= 1.2 + 1e-12)).all()
    order = torch.tensor(logp).argsort()  # the least confident first
    assert (actual.abs()[order].diff() >= 0).all()
    if max(logp) - min(logp) > 1e-2:
        assert not torch.equal(actual, before)
        assert actual.abs().max() > 0.5
        assert actual.abs().min() < 0.5


def test_outliers_are_left_out_of_mean_and_deviation() -> None:
    """Whatever a response far out is, the others' factors are what they are without it; its own is at the clamp."""
    usual = [-1.0, -1.1, -1.2, -1.3, -1.4]
    alone = ppl_shaping(responses(usual, [1.0] * 5), 0.1)
    for far in (-50.0, -5000.0):
        actual = ppl_shaping(responses([*usual, far], [1.0] * 6), 0.1)
        torch.testing.assert_close(actual[:-2], alone)
        torch.testing.assert_close(actual[-2:], torch.full((2,), 0.8 * 0.5, dtype=torch.float64))
    assert float(alone[0]) > 0.5 > float(alone[-1])


def test_ppl_shaping_of_equals_changes_nothing() -> None:
    t = responses([-1.0] * 4, [1.0, 0.0, 1.0, 0.0])
    torch.testing.assert_close(ppl_shaping(t, 0.1), t.advantage)


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_position_shaping_is_the_slow_loop(alpha: float) -> None:
    t = micro_batch(policy(), STEP, ROWS).rollout
    t = t.with_advantage(group_advantage(t))
    n = Numbers(policy(), STEP)
    a, expected = n.advantage(n.rollouts), []
    for i in n.rollouts:
        for k in range(n.length[i]):
            bonus = min(alpha / (1 + exp(-15 * (k / n.length[i] - 0.5))), 0.5 * abs(a[i]))
            expected.append(a[i] + (bonus if a[i] > 0 else -bonus if a[i] < 0 else 0.0))
    torch.testing.assert_close(position_shaping(t, alpha), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("step", "shaped"), [(1, False), (200, False), (201, True), (298, True), (299, True), (300, False), (301, False)]
)
def test_position_shaping_in_a_window_of_steps(step: int, shaped: bool) -> None:
    """The released code's window from 200 to 300: 201 is the first step that is shaped, 299 the last."""
    t = micro_batch(policy(), replace(STEP, table=replace(STEP.table, step=step)), ROWS).rollout
    t = t.with_advantage(group_advantage(t))
    expected = position_shaping(t) if shaped else t.advantage
    assert torch.equal(position_shaping(t, steps=(200, 300)), expected)
    assert (position_shaping(t) != t.advantage).any()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(a=st.floats(-3, 3), alpha=st.floats(0, 5), length=st.integers(1, 40))
def test_position_shaping_is_bounded_and_grows_to_the_end(a: float, alpha: float, length: int) -> None:
    t = responses([-1.0], [1.0], length=length)
    before = torch.full((length,), a, dtype=torch.float64)
    actual = position_shaping(replace(t, advantage=before), alpha)
    bonus = actual.abs() - before.abs()
    assert torch.equal(actual.sign(), before.sign())
    assert (bonus >= -1e-12).all()
    assert (bonus <= 0.5 * before.abs() + 1e-12).all()
    assert (bonus <= alpha + 1e-12).all()
    assert (bonus.diff() >= -1e-12).all()
    if length > 10 and abs(a) > 0.5 and 0.05 < alpha < 0.2:  # far from the bound
        assert bonus[-1] > bonus[0] + alpha / 2


@pytest.mark.parametrize("shape", [ppl_shaping, position_shaping])
@pytest.mark.parametrize("name", ["luffy", "srft", "psft"])
def test_demonstrations_keep_their_advantage(name: str, shape) -> None:
    t = micro_batch(policy(), STEP, ROWS)
    plain = t.with_advantage(group_advantage(t))
    shaped = replace(t, shaping=(shape,)).with_advantage(group_advantage(t))
    of_demo = STEP.table.is_demo[t.row]
    assert torch.equal(shaped.advantage[of_demo], plain.advantage[of_demo])
    assert (shaped.advantage[~of_demo] != plain.advantage[~of_demo]).any()
    method = get_method(name)
    terms, with_shape = method(t), method(replace(t, shaping=(shape,)))
    for term in set(terms) & {"sft_demo", "rl_demo", "psft"}:
        assert torch.equal(with_shape[term], terms[term])


@pytest.mark.parametrize("name", [name for name, method in methods().items() if method.has_advantage()])
def test_any_method_with_an_advantage_is_shaped(name: str) -> None:
    """Doubled advantages double the policy's terms, whose names begin with "rl"."""
    method, mean = get_method(name), STEP.table.mean
    means = {**mean, "advantage": mean["logp"], "advantage_variance": mean["logp"] ** 2, "process": mean["logp"]}
    step, model = replace(STEP, table=replace(STEP.table, mean=means)), policy()
    t = micro_batch(model, step, ROWS, method, {})
    options = {"dual_clip": 1e9} if "dual_clip" in method.options else {}

    def reinforced(t: Tokens) -> Tensor:
        return torch.stack([x for term, x in method(t, **options).items() if term.startswith("rl")]).sum()

    once, twice = reinforced(t), reinforced(replace(t, shaping=(lambda u: 2 * u.advantage,)))
    torch.testing.assert_close(slope(twice, model), 2 * slope(once, model))
    assert slope(once, model).any()


def test_shapings_are_applied_in_order() -> None:
    t = micro_batch(policy(), STEP, ROWS).rollout
    a = group_advantage(t)
    both = replace(t, shaping=(ppl_shaping, position_shaping)).with_advantage(a)
    expected = position_shaping(replace(t, advantage=ppl_shaping(t.with_advantage(a))))
    torch.testing.assert_close(both.advantage, expected)


def test_grpo_with_shaping_is_the_slow_loop() -> None:
    model, other = policy(), policy()
    t = replace(micro_batch(model, STEP, ROWS), shaping=(lambda u: ppl_shaping(u, 0.1), position_shaping))
    n = Numbers(other, STEP)
    a, shaped = n.advantage(n.rollouts), {}
    for group in set(n.group):
        rows = [i for i in n.rollouts if n.group[i] == group]
        for i, f in zip(rows, factors([-fmean(n.old[i]) for i in rows], 0.1), strict=True):
            for k in range(n.length[i]):
                x = a[i] * f
                bonus = min(0.1 / (1 + exp(-15 * (k / n.length[i] - 0.5))), 0.5 * abs(x))
                shaped[i, k] = x + (bonus if x > 0 else -bonus if x < 0 else 0.0)
    expected = n.grpo(n.rollouts, lambda i, k: shaped[i, k], "sequence-mean")
    actual = grpo(t)["rl"]
    assert float(actual.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    torch.testing.assert_close(slope(actual, model), slope(expected, other), rtol=1e-7, atol=1e-11)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=7))
def test_branching_factor_by_brute_force(weights: list[float]) -> None:
    p = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    sizes = (len(c) for n in range(1, len(p) + 1) for c in combinations(p.tolist(), n) if sum(c) >= 0.95 - 1e-12)
    assert int(branching_factor(p.log()[None])) == min(sizes)


def test_branching_factor_at_its_ends() -> None:
    """One sure token; twenty equal ones, of which nineteen make 0.95; half and half."""
    sure, even = torch.full((20,), 1e-6, dtype=torch.float64), torch.full((20,), 0.05 + 1e-9, dtype=torch.float64)
    sure[3] = 1
    half = torch.tensor([0.5, 0.5] + [1e-12] * 18, dtype=torch.float64)
    assert branching_factor(torch.stack([sure, even, half]).log()).tolist() == [1, 19, 2]
    at_least = torch.tensor([[0.95, 0.05]], dtype=torch.float64).log()
    assert float(at_least[0, 0].exp()) == 0.95
    assert branching_factor(at_least).tolist() == [1]
    rounded = torch.full((1, 20), 0.045, dtype=torch.float64).log()  # as a sum in low precision may fall short
    assert branching_factor(rounded).tolist() == [20]
