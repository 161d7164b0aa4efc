"""The methods on rollouts alone: against slow loops from the papers' equations, and what must hold for any input."""

from __future__ import annotations

from dataclasses import replace
from math import exp, sqrt

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from srft.objective import gae, get_method, group_advantage, grpo, leave_one_out, methods, right_rollouts
from srft.objective.advantage import overlong_penalty, whitened
from srft.objective.terms import clipped, response_mean
from tests.objective.slow import HOW, Numbers, clip, equal, leaves, same, single_tokens, slope
from tests.objective.steps import Step, gradient, measured, micro_batch, policy, random_step

STEP = random_step(groups=4, rollouts=4, demos=1, seed=21)
ROWS = list(range(len(STEP.tokens)))
SMALL = replace(STEP, table=replace(STEP.table, limit=8))  # responses reach the limit: overlong ones
NEEDS = {name: m.needs({}) for name, m in methods().items() if not name.endswith("-for-test")}
METHODS = [name for name, needs in NEEDS.items() if "rollouts" in needs and "demonstrations" not in needs]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("std", [True, False])
def test_grpo_is_the_slow_loop(how: str, std: bool) -> None:
    def slow(n: Numbers) -> dict:
        a = n.advantage(n.rollouts, std)
        loss = n.grpo(n.rollouts, lambda i, k: a[i], how, low=0.1, high=0.3)
        return {"rl": loss, "kl": 0.04 * n.kl(n.rollouts, how)}

    options = {"aggregation": how, "advantage_std": std, "clip_low": 0.1, "clip_high": 0.3, "kl_weight": 0.04}
    same(grpo, options, STEP, slow)


@pytest.mark.parametrize("bounds", [{}, {"clip_low": 0.1, "clip_high": 0.4}])
def test_dr_grpo_is_the_slow_loop(bounds: dict) -> None:
    def slow(n: Numbers) -> dict:
        a = n.advantage(n.rollouts, std=False)
        both = {name.removeprefix("clip_"): value for name, value in bounds.items()}
        return {"rl": n.grpo(n.rollouts, lambda i, k: a[i], "constant", **both)}

    same(get_method("dr-grpo"), bounds, STEP, slow)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("dual", "buffer"), [(10.0, 0.2), (1.3, 0.5), (1.05, 0.9)])
def test_dapo_is_the_slow_loop(how: str, dual: float, buffer: float) -> None:
    bound = []

    def slow(n: Numbers) -> dict:
        reward = [
            (1 if r == 1 else -1) + overlong(m, SMALL.table.limit, buffer)
            for r, m in zip(n.reward, n.length, strict=True)
        ]
        a = n.advantage(n.rollouts, reward=reward)
        bound.extend(a[i] < 0 and n.ratio(i, k).item() > dual for i in n.rollouts for k in range(n.length[i]))
        return {"rl": n.grpo(n.rollouts, lambda i, k: a[i], how, low=0.2, high=0.28, dual=dual)}

    same(get_method("dapo"), {"aggregation": how, "dual_clip": dual, "overlong_buffer": buffer}, SMALL, slow)
    assert any(bound) == (dual < 10)  # the dual clip is at work


def overlong(length: int, limit: int, share: float) -> float:
    """DAPO's Eq. 13: nothing up to L_max − L_cache, linear to −1 at L_max, −1 beyond."""
    cache = share * limit
    if length <= limit - cache:
        return 0.0
    return (limit - cache - length) / cache if length <= limit else -1.0


@pytest.mark.parametrize("share", [0.1, 0.2, 0.25, 0.5, 1.0])
def test_overlong_penalty_is_dapos_piecewise(share: float) -> None:
    lengths = list(range(1, 31))
    t = micro_batch(policy(), STEP, [0])
    t = replace(t, responses=replace(STEP.table, length=torch.tensor(lengths), limit=20))
    expected = [overlong(length, 20, share) for length in lengths]
    torch.testing.assert_close(overlong_penalty(t, share), torch.tensor(expected, dtype=torch.float64))
    assert min(expected) == -1.0
    assert (max(expected) == 0.0) == (share < 1)


def test_dapos_penalty_is_half_the_way_from_right_to_wrong() -> None:
    """Right and wrong are ±1, so the longest right response is still better than a short wrong one."""
    t = single_tokens([1.0] * 4, [1.0, 1.0, 0.0, 0.0])
    lengths = torch.tensor([5, 20, 5, 20])  # of one token each here: the penalty goes by the table
    t = replace(t, responses=replace(t.responses, length=lengths, limit=20))
    get_method("dapo")(t, aggregation="token-sum")["rl"].backward()
    assert t.logp.grad is not None
    advantage = (-4 * t.logp.grad).tolist()
    assert advantage == pytest.approx([1.162, 0.387, -0.387, -1.162], abs=1e-3)  # of the rewards 1, 0, −1, −2


def test_dapo_by_default_has_its_papers_numbers() -> None:
    """0.2 / 0.28, dual clip 10, a fifth of the length as buffer, token mean."""
    numbers = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 10.0, "overlong_buffer": 0.2}
    equal((get_method("dapo"), {}), (get_method("dapo"), {**numbers, "aggregation": "token-mean"}), SMALL)


def test_dapo_without_its_extras_is_grpo() -> None:
    off = {"clip_high": 0.2, "dual_clip": 1e9, "overlong_buffer": 1e-9}
    # rewards of ±1 double the deviation, to which the same 1e-6 is added
    equal((get_method("dapo"), off), (grpo, {"aggregation": "token-mean"}), STEP, rtol=3e-6)


def test_dr_grpo_is_grpo_by_its_options() -> None:
    equal((get_method("dr-grpo"), {}), (grpo, {"advantage_std": False, "aggregation": "constant"}), STEP)


@pytest.mark.parametrize("name", ["relift", "tapo"])
@pytest.mark.parametrize(
    "options", [{}, {"clip_low": 0.05, "clip_high": 0.5}, *[{"aggregation": how} for how in HOW]], ids=str
)
def test_relift_and_tapo_are_grpo(name: str, options: dict) -> None:
    equal((get_method(name), options), (grpo, options), STEP)


def test_tapo_without_the_deviation() -> None:
    equal((get_method("tapo"), {"advantage_std": False}), (grpo, {"advantage_std": False}), STEP)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    ratio=st.lists(st.floats(0.01, 8), min_size=2, max_size=6),
    low=st.floats(0, 0.9), high=st.floats(0, 1), dual=st.floats(2.1, 6),
)  # fmt: skip
def test_clip_boundaries(ratio: list[float], low: float, high: float, dual: float) -> None:
    """Out of bounds on the side A pushes to: no gradient; within, or out on the other side: the full one, −ρA."""
    reward = [float(i % 2) for i in range(len(ratio))]
    assume(all(abs(r - edge) > 1e-9 for r in ratio for edge in (1 - low, 1 + high, dual)))
    a = torch.tensor(reward, dtype=torch.float64) - sum(reward) / len(reward)
    bounds = {"clip_low": low, "clip_high": high}
    cases = (
        (grpo, {**bounds, "advantage_std": False}, 1.0, False),
        (get_method("dapo"), {**bounds, "dual_clip": dual, "overlong_buffer": 1e-9}, float(a.std()) + 5e-7, True),
    )
    for method, options, deviation, dual_clip in cases:
        t = single_tokens(ratio, reward)
        method(t, **options)["rl"].backward()
        expected = []
        for r, x in zip(ratio, (a / deviation).tolist(), strict=True):
            still = r > 1 + high if x > 0 else r < 1 - low or (dual_clip and r > dual)
            expected.append(0.0 if still else -x * r / len(ratio))
        torch.testing.assert_close(t.logp.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("at", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
def test_max_prob_stops_the_tokens_above_it_and_only_those(at: float, kl_weight: float) -> None:
    """Low-entropy gradient clipping (App. A.2): the loss is the same, and so is every other token's gradient."""
    free, held = leaves(STEP), leaves(STEP)
    loss = sum(grpo(free, kl_weight=kl_weight).values())
    held_loss = sum(grpo(held, kl_weight=kl_weight, max_prob=at).values())
    loss.backward()
    held_loss.backward()
    assert float(held_loss.detach()) == float(loss.detach())
    above = free.logp.detach().exp() > at
    assert above.any()
    assert not held.logp.grad[above].any()
    torch.testing.assert_close(held.logp.grad[~above], free.logp.grad[~above], rtol=0, atol=0)


def test_max_prob_of_one_is_grpo() -> None:
    equal((grpo, {"max_prob": 1.0}), (grpo, {}), STEP)
    equal((grpo, {"kl_weight": 0.0}), (grpo, {}), STEP)


def test_clipped_takes_another_ratio() -> None:
    """Its own by default; another one is clipped in its place, and carries the gradient (GSPO's, per response)."""
    model, other = policy(), policy()
    t, n = micro_batch(model, STEP, ROWS).rollout, Numbers(other, STEP)
    t = t.with_advantage(group_advantage(t))
    torch.testing.assert_close(clipped(t), clipped(t, ratio=t.ratio), rtol=0, atol=0)
    a = n.advantage(n.rollouts)

    def of_response(i: int) -> Tensor:
        return (sum(n.logp[i][k] - n.old[i][k] for k in range(n.length[i])) / n.length[i]).exp()

    expected = -n.mean(n.rollouts, lambda i, k: clip(of_response(i), a[i]), "sequence-mean")
    loss = clipped(t, ratio=response_mean(t, t.ratio.log()).exp(), how="sequence-mean")
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    torch.testing.assert_close(slope(loss, model), slope(expected, other), rtol=1e-7, atol=1e-11)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), high=st.floats(0, 0.5), dual=st.floats(1.01, 3))
def test_clip_fraction_is_a_count(seed: int, high: float, dual: float) -> None:
    step = random_step(groups=2, rollouts=3, demos=1, seed=seed)
    t = replace(leaves(step), record={})
    get_method("dapo")(t, clip_high=high, dual_clip=dual, overlong_buffer=1e-9)
    n = Numbers(policy(), step)
    a, out = n.advantage(n.rollouts), []
    for i in n.rollouts:
        for k in range(n.length[i]):
            r = n.ratio(i, k).item()
            out.append((a[i] > 0 and r > 1 + high) or (a[i] < 0 and (r < 0.8 or r > dual)))
    assert t.record is not None
    total, count = t.record["clip_ratio/region_mean"]
    assert (float(total), count) == (sum(out), len(out))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.5), (1.0, 0.0), (0.7, 1.0)])
def test_gae_is_the_double_sum(gamma: float, lam: float) -> None:
    t = micro_batch(policy(), STEP, ROWS)
    actual, expected = gae(t, gamma, lam), advantages(STEP, gamma, lam)
    torch.testing.assert_close(actual, torch.tensor([x for i in ROWS for x in expected[i]], dtype=torch.float64))
    mixed = [7, 2, 11]  # any part of the step, in any order
    part = gae(micro_batch(policy(), STEP, mixed), gamma, lam)
    torch.testing.assert_close(part, torch.tensor([x for i in mixed for x in expected[i]], dtype=torch.float64))


def advantages(step: Step, gamma: float, lam: float) -> list[list[float]]:
    """Σ_l (γλ)^l (r_{t+l} + γ V_{t+l+1} − V_{t+l}), the reward with the last token."""
    result = []
    for i, values in enumerate(step.values):
        v = [*values.tolist(), 0.0]
        delta = [gamma * v[k + 1] - v[k] for k in range(len(values))]
        delta[-1] += float(step.table.reward[i])
        result.append(
            [sum((gamma * lam) ** (s - k) * delta[s] for s in range(k, len(delta))) for k in range(len(delta))]
        )
    return result


def test_gae_of_one_and_one_is_reward_less_value() -> None:
    t = micro_batch(policy(), STEP, ROWS)
    assert t.old_value is not None
    torch.testing.assert_close(gae(t), STEP.table.reward[t.row] - t.old_value)


def test_whitened_has_mean_zero_and_deviation_one() -> None:
    step = measured(get_method("ppo"), {}, STEP)
    t = micro_batch(policy(), step, ROWS).rollout
    actual = whitened(t, gae(t))
    assert float(actual.mean()) == pytest.approx(0, abs=1e-9)
    assert float(actual.std()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("level", "spread"), [(0.0, 1.0), (100.0, 0.1), (1e4, 0.05), (-1e4, 0.05)])
@pytest.mark.parametrize("cut", [[ROWS], [ROWS[:7], ROWS[7:]]], ids=["one micro-batch", "two"])
def test_whitening_keeps_its_precision_in_float32(level: float, spread: float, cut: list) -> None:
    """A critic far from the rewards: large advantages that differ little, in the float32 that networks give."""
    method, generator = get_method("ppo"), torch.Generator().manual_seed(0)
    noise = torch.randn(sum(len(x) for x in STEP.tokens), generator=generator) * spread
    values = [(x - level).float() for x in noise.split([len(x) for x in STEP.tokens])]
    still = replace(STEP, table=replace(STEP.table, reward=torch.ones_like(STEP.table.reward).float()))
    parts = []
    for rows in cut:
        t = micro_batch(policy(), still, rows)
        flat = torch.cat([values[r] for r in rows])
        parts.append(replace(t, logp=t.logp.float(), value=flat, old_value=flat))
    sums: dict[str, Tensor] = {}
    for t in parts:  # as the trainer does
        for name, x in method.measure(t, method.defaults()).items():
            total = sums.get(name, torch.zeros(len(ROWS)).double())
            sums[name] = total.index_add(0, t.row, x.double())
    means = {name: x / STEP.table.length for name, x in sums.items()}
    views = [replace(t, responses=replace(t.responses, mean=means)).rollout for t in parts]
    advantages = [gae(t) for t in views]
    every = torch.cat(advantages).double()
    expected = (every - every.mean()) / (every.var() + 1e-8).sqrt()
    ours = torch.cat([whitened(t, a) for t, a in zip(views, advantages, strict=True)])
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "o",
    [
        {"whiten": True}, {"whiten": False}, {"whiten": True, "gamma": 0.9, "lam": 0.5, "clip": 0.1},
        {"whiten": False, "value_clip": 0.05}, {"whiten": False, "value_clip": 1e9},
    ],
    ids=str,
)  # fmt: skip
def test_ppo_is_the_slow_loop(how: str, o: dict) -> None:
    o = {"gamma": 1.0, "lam": 1.0, "clip": 0.2, "value_clip": 0.2, **o}

    def slow(n: Numbers) -> dict[str, Tensor]:
        raw = advantages(STEP, o["gamma"], o["lam"])
        a = [list(x) for x in raw]
        if o["whiten"]:
            flat = [x for i in n.rollouts for x in raw[i]]
            mean = sum(flat) / len(flat)
            deviation = sqrt(sum((x - mean) ** 2 for x in flat) / (len(flat) - 1) + 1e-8)
            a = [[(x - mean) / deviation for x in row] for row in raw]

        def value(i: int, k: int) -> Tensor:
            old = float(STEP.values[i][k])
            now = old + n.all[i][k, 0]
            target = raw[i][k] + old
            near = old + min(max(now.item() - old, -o["value_clip"]), o["value_clip"])
            if abs(now.item() - old) <= o["value_clip"] or (now.item() - target) ** 2 >= (near - target) ** 2:
                return 0.5 * (now - target) ** 2
            return 0 * now + 0.5 * (near - target) ** 2

        loss = n.grpo(n.rollouts, lambda i, k: a[i][k], how, low=o["clip"], high=o["clip"])
        return {"rl": loss, "value": n.mean(n.rollouts, value)}

    same(get_method("ppo"), {**o, "aggregation": how}, STEP, slow)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("beta", "gamma"), [(0.05, 1.0), (0.5, 0.9)])
def test_prime_is_the_slow_loop(how: str, beta: float, gamma: float) -> None:
    """A = Σ_{s≥t} γ^{s−t} (r_φ(y_s) − mean of the others' r_φ) + r − mean of the others' r, φ before the update; and
    the cross-entropy of σ(β Σ_t log π_φ/π_ref) with the outcome."""
    process = [(beta * (q - ref)).tolist() for q, ref in zip(STEP.reward_old, STEP.ref, strict=True)]
    means = torch.tensor([sum(x) / len(x) for x in process], dtype=torch.float64)
    step = replace(STEP, table=replace(STEP.table, mean={**STEP.table.mean, "process": means}))

    def slow(n: Numbers) -> dict[str, Tensor]:
        a, loss = {}, 0 * n.logp[0][0]
        for i in n.rollouts:
            others = [j for j in n.rollouts if n.group[j] == n.group[i] and j != i]
            base = sum(sum(process[j]) / len(process[j]) for j in others) / len(others)
            outcome = n.reward[i] - sum(n.reward[j] for j in others) / len(others)
            for k in range(n.length[i]):
                future = sum(gamma ** (s - k) * (process[i][s] - base) for s in range(k, n.length[i]))
                a[i, k] = future + outcome
            score = beta * sum(float(STEP.reward_old[i][k]) + n.all[i][k, 1] - n.ref[i][k] for k in range(n.length[i]))
            p = 1 / (1 + (-score).exp())
            loss = loss - (p.log() if n.reward[i] == 1 else (1 - p).log())
        rl = n.grpo(n.rollouts, lambda i, k: a[i, k], how)
        return {"rl": rl, "reward_model": loss / len(n.rollouts)}

    same(get_method("prime"), {"beta": beta, "gamma": gamma, "aggregation": how}, step, slow, measure=False)


def test_prime_measures_the_process_reward() -> None:
    actual = get_method("prime").measure(micro_batch(policy(), STEP, ROWS), {"beta": 0.05})["process"]
    judged = torch.cat([0.05 * (q - r) for q, r in zip(STEP.reward_old, STEP.ref, strict=True)])
    logits = torch.cat([policy()(c) for c in STEP.contexts]).log_softmax(-1)
    torch.testing.assert_close(actual, judged + 0.05 * logits[:, 1])


@pytest.mark.parametrize("name", ["ppo", "prime"])
def test_the_other_model_and_the_policy_do_not_teach_each_other(name: str) -> None:
    """The critic and the reward model learn from their own term alone, and the policy from `rl` alone."""
    step = measured(get_method(name), {}, STEP)
    t = leaves(step)
    own = "value" if name == "ppo" else "reward_logp"
    other = getattr(t, own).detach().requires_grad_()
    terms = get_method(name)(replace(t, **{own: other}))
    learnt = {"ppo": "value", "prime": "reward_model"}[name]
    assert torch.autograd.grad(terms["rl"], other, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(terms[learnt], t.logp, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(terms[learnt], other)[0].abs().sum() > 0


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), rollouts=st.integers(1, 4), demos=st.integers(0, 2))
def test_groups_by_hand(seed: int, rollouts: int, demos: int) -> None:
    step = random_step(groups=3, rollouts=rollouts, demos=demos, seed=seed)
    n, t = Numbers(policy(), step), micro_batch(policy(), step, range(len(step.tokens)))
    x = torch.rand(len(step.tokens), generator=torch.Generator().manual_seed(seed)).double()
    left, right = leave_one_out(t.rollout, x), right_rollouts(t)
    for i in n.every:
        mates = [j for j in n.rollouts if n.group[j] == n.group[i]]
        assert right[i] == sum(n.reward[j] == 1 for j in mates)
        if i in n.rollouts:
            others = [float(x[j]) for j in mates if j != i] or [float(x[i])]
            assert float(left[i]) == pytest.approx(sum(others) / len(others))
    for view, rows in ((t, n.every), (t.rollout, n.rollouts)):
        for std in (True, False):
            actual, expected = group_advantage(view, std, reward=x), n.advantage(rows, std, x.tolist())
            assert all(float(actual[i]) == pytest.approx(expected.get(i, 0.0), rel=1e-9, abs=1e-12) for i in n.every)


@pytest.mark.parametrize("name", METHODS)
def test_demonstrations_teach_reinforced_methods_nothing(name: str) -> None:
    """The same step without its demonstrations has the same gradient."""
    keep = [i for i in ROWS if not STEP.table.is_demo[i]]
    index = torch.tensor(keep)
    lists = {
        k: [getattr(STEP, k)[i] for i in keep] for k in ("contexts", "tokens", "old", "ref", "values", "reward_old")
    }
    table = replace(
        STEP.table, reward=STEP.table.reward[index], group=STEP.table.group[index], is_demo=STEP.table.is_demo[index],
        length=STEP.table.length[index], mean={k: x[index] for k, x in STEP.table.mean.items()},
    )  # fmt: skip
    _, together = gradient(get_method(name), {}, STEP, [ROWS])
    _, alone = gradient(get_method(name), {}, Step(**lists, table=table), [list(range(len(keep)))])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-13)


def test_a_huge_ratio_is_finite() -> None:
    """Far out of bounds: a number in the loss, nothing in the gradient; the others learn."""
    t = single_tokens([exp(30.0), exp(-30.0), 1.0, 1.0], [1.0, 0.0, 1.0, 0.0])
    loss = grpo(t)["rl"]
    loss.backward()
    assert torch.isfinite(loss)
    assert t.logp.grad is not None
    assert t.logp.grad.bool().tolist() == [False, False, True, True]
