"""The supervised methods: against slow loops over tokens and vocabulary, PyTorch's own functions and closed forms."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from srft.objective import get_method, sft
from srft.objective.vocabulary import kl_to_reference, sharpened_logp
from tests.objective.slow import HOW, Numbers, clip, equal, leaves, same, single_tokens, slope
from tests.objective.steps import VOCABULARY, gradient, micro_batch, policy, random_step

STEP = random_step(groups=5, rollouts=1, demos=2, seed=11)
ROWS = list(range(len(STEP.tokens)))
DEMOS = [i for i in ROWS if STEP.table.is_demo[i]]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["sft", "rft"])
def test_sft_and_rft_are_the_slow_loop(name: str, how: str) -> None:
    same(get_method(name), {"aggregation": how}, STEP, lambda n: {"sft": n.nll(n.demos, how)})


@pytest.mark.parametrize("how", HOW)
def test_rft_is_sft(how: str) -> None:
    equal((get_method("rft"), {"aggregation": how}), (sft, {"aggregation": how}), STEP)


@pytest.mark.parametrize("weight", [None, 0.1, 0.5])
def test_sft_kl_is_pytorchs(weight: float | None) -> None:
    """Cross entropy and kl_div over the vocabulary; the default weight is the English paper's."""
    options = {} if weight is None else {"kl_weight": weight}
    loss, grad = gradient(get_method("sft-kl"), options, STEP, [ROWS])
    model, contexts = policy(), torch.cat([STEP.contexts[i] for i in DEMOS])
    logits, reference = model(contexts), policy(2)(contexts).log_softmax(-1).detach()
    divergence = F.kl_div(reference, logits.log_softmax(-1), reduction="batchmean", log_target=True)
    expected = F.cross_entropy(logits, torch.cat([STEP.tokens[i] for i in DEMOS]))
    expected = expected + (0.2 if weight is None else weight) * divergence
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-9)
    theirs = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(grad, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("how", HOW)
def test_sft_kl_is_the_slow_loop(how: str) -> None:
    def slow(n: Numbers) -> dict:
        model = policy(2)
        reference = [model(c).log_softmax(-1).tolist() for c in STEP.contexts]

        def divergence(i: int, k: int):
            return sum(n.all[i][k, v].exp() * (n.all[i][k, v] - reference[i][k][v]) for v in range(VOCABULARY))

        return {"sft": n.nll(n.demos, how), "kl": 0.2 * n.mean(n.demos, divergence, how)}

    same(get_method("sft-kl"), {"aggregation": how}, STEP, slow)


def test_kl_to_oneself_is_nothing() -> None:
    logits = torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    logp = logits.log_softmax(-1)
    reference = logp.detach().clone().requires_grad_()
    actual = kl_to_reference(logp, reference, {})
    actual.sum().backward()
    assert reference.grad is None
    torch.testing.assert_close(actual, torch.zeros(6).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(logits.grad, torch.zeros(6, VOCABULARY).double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("how", HOW)
def test_dft_is_the_slow_loop(how: str) -> None:
    same(
        get_method("dft"), {"aggregation": how}, STEP,
        lambda n: {"sft": n.nll(n.demos, how, lambda i, k: n.p(i, k).item())},
    )  # fmt: skip


def test_dft_climbs_the_probability_itself() -> None:
    """sg(π)·∇log π = ∇π: DFT's gradient is that of −E[π]."""
    _, grad = gradient(get_method("dft"), {}, STEP, [ROWS])
    model = policy()
    torch.testing.assert_close(
        grad, slope(-micro_batch(model, STEP, DEMOS).logp.exp().mean(), model), rtol=1e-9, atol=1e-13
    )


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("cap", [16.0, 1.1])
def test_iw_sft_is_the_slow_loop(how: str, cap: float) -> None:
    weights = []

    def slow(n: Numbers) -> dict:
        def weight(i: int, k: int) -> float:
            gaps = [n.logp[i][j].item() - n.ref[i][j] for j in range(n.length[i])]
            weights.append(exp(sum(gaps) / len(gaps)))
            return min(weights[-1], cap)

        return {"sft": n.nll(n.demos, how, weight)}

    same(get_method("iw-sft"), {"aggregation": how, "max_weight": cap}, STEP, slow)
    assert min(weights) < 1.1 < max(weights)  # the lower cap binds on some responses


def test_iw_sft_by_default_is_capped_at_16() -> None:
    t = leaves(STEP)
    t = replace(t, ref_logp=t.logp.detach() - torch.where(t.row == DEMOS[0], 100.0, 0.0))
    get_method("iw-sft")(t)["sft"].backward()
    of_demo = STEP.table.is_demo[t.row].double()
    expected = -torch.where(t.row == DEMOS[0], 16.0, 1.0) * of_demo / of_demo.sum()
    torch.testing.assert_close(t.logp.grad, expected)


def test_iw_sft_from_the_reference_itself_is_sft() -> None:
    model = policy()
    t = micro_batch(model, STEP, ROWS)
    actual = get_method("iw-sft")(replace(t, ref_logp=t.logp.detach()))["sft"]
    expected = sft(t)["sft"]
    assert float(actual.detach()) == pytest.approx(float(expected.detach()))
    torch.testing.assert_close(slope(actual, model), slope(expected, model))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("beta", [0.7, 0.3, 2.0])
def test_gem_is_the_slow_loop(how: str, beta: float) -> None:
    """−Σ_v q_v (log π(y) − log π(v)) with q as numbers: so the stop-gradient is there or the gradients differ."""

    def slow(n: Numbers) -> dict:
        def token(i: int, k: int):
            logits = n.all[i][k].tolist()
            total = sum(exp(x / beta) for x in logits)
            q = [exp(x / beta) / total for x in logits]
            return -sum(q[v] * (n.logp[i][k] - n.all[i][k, v]) for v in range(VOCABULARY))

        return {"gem": n.mean(n.demos, token, how)}

    same(get_method("gem"), {"aggregation": how, "beta": beta}, STEP, slow)
    if beta == 0.7:
        equal((get_method("gem"), {}), (get_method("gem"), {"beta": 0.7}), STEP)


def test_gem_at_the_ends_of_beta() -> None:
    """β → ∞: q is uniform. β = 1: q = π, Σ_v π_v ∇log π_v = 0 and the gradient is SFT's. β → 0: q is the mode."""
    gem = get_method("gem")
    same(
        gem, {"beta": 1e12}, STEP,
        lambda n: {"gem": n.mean(n.demos, lambda i, k: -(n.logp[i][k] - n.all[i][k].mean()))},
    )  # fmt: skip
    _, at_one = gradient(gem, {"beta": 1.0}, STEP, [ROWS])
    _, supervised = gradient(sft, {}, STEP, [ROWS])
    torch.testing.assert_close(at_one, supervised, rtol=1e-9, atol=1e-13)
    same(
        gem, {"beta": 1e-4}, STEP,
        lambda n: {"gem": n.mean(n.demos, lambda i, k: -(n.logp[i][k] - n.all[i][k].max()))},
    )  # fmt: skip


def test_q_of_gem_gets_no_gradient() -> None:
    logits = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    logp = logits.log_softmax(-1)
    logp.retain_grad()
    sharpened_logp(logp, None, {"beta": 0.7}).sum().backward()
    torch.testing.assert_close(logp.grad, (logits.detach() / 0.7).softmax(-1))  # d/d log π of Σ q·log π is q


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("bounds", [{}, {"clip_low": 0.1, "clip_high": 0.5}])
def test_psft_is_the_slow_loop(how: str, bounds: dict) -> None:
    high = bounds.get("clip_high", 0.28)
    same(
        get_method("psft"), {"aggregation": how, **bounds}, STEP,
        lambda n: {"psft": -n.mean(n.demos, lambda i, k: clip(n.ratio(i, k), 1.0, high=high), how)},
    )  # fmt: skip


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), how=st.sampled_from(HOW), high=st.floats(0, 1))
def test_psft_of_one_update_a_batch_has_sfts_gradient(seed: int, how: str, high: float) -> None:
    step = random_step(groups=2, rollouts=1, demos=2, seed=seed)
    model = policy()
    t = replace(micro_batch(model, step, range(6)), old_logp=None)
    psft, supervised = get_method("psft")(t, aggregation=how, clip_high=high)["psft"], sft(t, aggregation=how)["sft"]
    torch.testing.assert_close(slope(psft, model), slope(supervised, model), rtol=1e-9, atol=1e-13)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ratio=st.lists(st.floats(0.01, 6), min_size=1, max_size=6), low=st.floats(0, 0.9), high=st.floats(0, 2))
def test_psft_stops_above_its_bound_and_only_there(ratio: list[float], low: float, high: float) -> None:
    """No gradient where ρ > 1+ε, the full one −ρ elsewhere: the lower bound does nothing for A = 1."""
    assume(all(abs(r - 1 - high) > 1e-9 for r in ratio))
    t = single_tokens(ratio, [1.0] * len(ratio), demo=True)
    get_method("psft")(t, clip_low=low, clip_high=high)["psft"].backward()
    expected = [0.0 if r > 1 + high else -r / len(ratio) for r in ratio]
    torch.testing.assert_close(t.logp.grad, torch.tensor(expected, dtype=torch.float64))


def test_psft_by_default_clips_at_028() -> None:
    t = single_tokens([1.27, 1.29, 0.1], [1.0] * 3, demo=True)
    get_method("psft")(t)["psft"].backward()
    torch.testing.assert_close(t.logp.grad, -torch.tensor([1.27, 0.0, 0.1], dtype=torch.float64) / 3)
    assert get_method("psft").settings == {"optim.updates_per_batch": 8}  # 256 / 32


@pytest.mark.parametrize("name", ["sft", "rft", "sft-kl", "dft", "iw-sft", "gem", "psft"])
def test_rollouts_teach_supervised_methods_nothing(name: str) -> None:
    """Other rollouts, or none at all, in the step: the same gradient."""
    method, none = get_method(name), random_step(groups=5, rollouts=0, demos=2, seed=11)
    with_rollouts = replace(
        none,
        contexts=[*none.contexts, torch.tensor([1, 2, 3])], tokens=[*none.tokens, torch.tensor([3, 4, 5])],
        old=[*none.old, torch.full((3,), log(0.1)).double()], ref=[*none.ref, torch.full((3,), log(0.1)).double()],
        values=[*none.values, torch.zeros(3).double()], reward_old=[*none.reward_old, torch.zeros(3).double()],
        table=replace(
            none.table, reward=torch.cat([none.table.reward, torch.zeros(1).double()]),
            group=torch.cat([none.table.group, torch.zeros(1).long()]),
            is_demo=torch.cat([none.table.is_demo, torch.zeros(1).bool()]),
            length=torch.cat([none.table.length, torch.tensor([3])]),
        ),
    )  # fmt: skip
    _, alone = gradient(method, {}, none, [list(range(10))])
    _, together = gradient(method, {}, with_rollouts, [list(range(11))])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-15)
