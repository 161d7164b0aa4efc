"""The methods that mix demonstrations and rollouts: against slow loops from their papers' words, and what they become
where their switches are at an end."""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srft.objective import get_method, grpo, sft
from srft.objective.terms import warmup_cosine
from tests.objective.slow import HOW, Numbers, equal, leaves, same
from tests.objective.steps import Step, gradient, micro_batch, policy, random_step, without_rows

# four prompts with 0, 1, 2 and 3 right of three rollouts, and a demonstration each
RIGHT = [0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1]
STEP = random_step(groups=4, rollouts=3, demos=1, seed=31, rewards=RIGHT)
ROWS = list(range(16))
MIXED = without_rows(STEP, [3, 11])  # the prompts with 0 and with 2 right rollouts have no demonstration
steps = pytest.mark.parametrize("step", [STEP, MIXED], ids=["demonstrations for all", "for some"])


def at(number: int, step: Step = STEP) -> Step:
    return replace(step, table=replace(step.table, step=number))


@steps
@pytest.mark.parametrize("how", HOW)
def test_sft_rl_is_the_slow_loop(step: Step, how: str) -> None:
    def slow(n: Numbers) -> dict[str, Tensor]:
        a = n.advantage(n.rollouts)
        rl = n.grpo(n.rollouts, lambda i, k: a[i], how, low=0.1, high=0.3)
        return {"sft": 0.3 * n.nll(n.demos, how), "rl": 0.7 * rl}

    options = {"clip_low": 0.1, "clip_high": 0.3, "sft_weight": 0.3, "rl_weight": 0.7}
    same(get_method("sft+rl"), {**options, "sft_aggregation": how, "rl_aggregation": how}, step, slow)


@steps
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("o", [{}, {"advantage_std": False, "entropy_bonus": 0.01}, {"gamma": 0.5}], ids=str)
def test_luffy_is_the_slow_loop(step: Step, how: str, o: dict) -> None:
    """One advantage over rollouts and demonstrations, one count for both; no clip on either."""
    gamma, bonus = o.get("gamma", 0.1), o.get("entropy_bonus", 0.0)

    def slow(n: Numbers) -> dict[str, Tensor]:
        a = n.advantage(n.every, o.get("advantage_std", True))
        terms = {
            "rl_demo": n.mean(n.demos, lambda i, k: -a[i] * n.p(i, k) / (n.p(i, k) + gamma), how, over=n.every),
            "rl_rollout": n.mean(n.rollouts, lambda i, k: -a[i] * n.ratio(i, k), how, over=n.every),
        }
        if bonus:
            entropy = n.mean(n.every, lambda i, k: -(n.all[i][k].exp() * n.all[i][k]).sum())
            terms["entropy_bonus"] = -bonus * entropy
        return terms

    same(get_method("luffy"), {**o, "aggregation": how}, step, slow)


def test_luffy_presets() -> None:
    luffy = get_method("luffy")
    assert luffy.preset("paper") == {}
    assert luffy.preset("code") == {"advantage_std": False, "aggregation": "constant", "entropy_bonus": 0.001}


def test_luffys_code_counts_demonstrations_and_rollouts_together() -> None:
    """Σ over the tokens of both / (responses of both · limit); the entropy bonus over all tokens."""

    def slow(n: Numbers) -> dict[str, Tensor]:
        a, responses, tokens = n.advantage(n.every, std=False), len(n.every), sum(n.length)
        terms = dict.fromkeys(("rl_demo", "rl_rollout", "entropy_bonus"), 0 * n.logp[0][0])
        for i in n.every:
            for k in range(n.length[i]):
                ratio = n.p(i, k) / (n.p(i, k) + 0.1) if i in n.demos else n.ratio(i, k)
                name = "rl_demo" if i in n.demos else "rl_rollout"
                terms[name] = terms[name] - a[i] * ratio / (responses * n.step.table.limit)
                entropy = -(n.all[i][k].exp() * n.all[i][k]).sum()
                terms["entropy_bonus"] = terms["entropy_bonus"] - 0.001 * entropy / tokens
        return terms

    luffy = get_method("luffy")
    same(luffy, luffy.preset("code"), STEP, slow)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_luffys_shaping_at_the_ends_of_gamma(seed: int) -> None:
    """γ → ∞: γ·f(π) → π, the unshaped term. γ → 0: f → 1, nothing to learn. Between: γπ/(π+γ)² per token."""
    step = random_step(groups=2, rollouts=2, demos=1, seed=seed, rewards=[1, 0, 1, 0, 0, 1])
    slopes = {}
    for gamma in (1e-12, 0.1, 1e9):
        t = leaves(step)
        get_method("luffy")(t, gamma=gamma)["rl_demo"].backward()
        slopes[gamma] = t.logp.grad
    n = Numbers(policy(), step)
    a, p = n.advantage(n.every), t.logp.detach().exp()
    scale = torch.tensor([-a[i] * (i in n.demos) for i in t.row.tolist()], dtype=torch.float64) / len(t.row)
    torch.testing.assert_close(slopes[1e9] * 1e9, scale * p, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(slopes[0.1], scale * 0.1 * p / (p + 0.1) ** 2)
    assert slopes[1e-12].abs().max() < 1e-8


@steps
@pytest.mark.parametrize("how", HOW)
def test_uft_is_the_slow_loop(step: Step, how: str) -> None:
    def slow(n: Numbers) -> dict[str, Tensor]:
        a = n.advantage(n.rollouts)
        return {
            "rl": n.grpo(n.rollouts, lambda i, k: a[i], how),
            "kl": 0.001 * n.kl(n.rollouts, how),
            "sft_hint": 0.001 * n.nll(n.demos),
        }

    same(get_method("uft"), {"aggregation": how}, step, slow)


def test_uft_without_its_extras_is_grpo() -> None:
    equal((get_method("uft"), {"hint_weight": 0.0, "kl_weight": 0.0}), (grpo, {}), STEP)


@pytest.mark.parametrize("kind", ["demonstrations", "rollouts"])
def test_both_kinds_of_step_of_sasr(kind: str) -> None:
    demos = kind == "demonstrations"
    step = random_step(groups=3, rollouts=0 if demos else 3, demos=2 if demos else 0, seed=32)

    def slow(n: Numbers) -> dict[str, Tensor]:
        a = n.advantage(n.rollouts)
        return {"sft": n.nll(n.demos), "rl": n.grpo(n.rollouts, lambda i, k: a[i], "sequence-mean")}

    same(get_method("sasr"), {}, step, slow)
    equal((get_method("sasr"), {}), (sft if demos else grpo, {}), step)


SUPERVISED, REINFORCED = frozenset({"demonstrations"}), frozenset({"rollouts", "old_logp"})


def test_sasr_warms_up_then_draws() -> None:
    """SFT for the warm-up; then with probability G_last/(G_last + γ·G_warm-up), G of SFT steps alone."""
    sasr = get_method("sasr")
    assert sasr.chooses is not None
    o = sasr.defaults({"warmup_steps": 3, "gamma": 2.0})
    history: list[dict] = []
    for number, norm in ((1, 9.0), (2, 7.0), (3, 4.0)):
        assert sasr.chooses(o, number, history, 0.999) == SUPERVISED
        history.append({"grad_norm": norm})
    for last in (4.0, 1.0, 12.0):  # of which 4 was the warm-up's last
        if last != 4.0:
            history.append({"grad_norm": last})
        history.append({"grad_norm": 1000.0, "reward": 0.5})  # a step of GRPO is not looked at
        p = last / (last + 2.0 * 4.0)
        for draw in (0.0, p - 1e-9):
            assert sasr.chooses(o, len(history) + 1, history, draw) == SUPERVISED
        for draw in (p + 1e-9, 0.999):
            assert sasr.chooses(o, len(history) + 1, history, draw) == REINFORCED


def test_sasr_by_default_warms_up_50_steps() -> None:
    sasr = get_method("sasr")
    assert sasr.chooses is not None
    history = [{"grad_norm": 1.0}] * 49
    assert sasr.chooses(sasr.defaults(), 50, history, 0.999) == SUPERVISED
    assert sasr.chooses(sasr.defaults(), 51, [*history, {"grad_norm": 1.0}], 0.499) == SUPERVISED
    assert sasr.chooses(sasr.defaults(), 51, [*history, {"grad_norm": 1.0}], 0.501) == REINFORCED


def test_sasr_without_warm_up_goes_by_its_first_step() -> None:
    """With no warm-up the first SFT step stands for it, and the ratio still moves."""
    sasr = get_method("sasr")
    assert sasr.chooses is not None
    o, history = sasr.defaults({"warmup_steps": 0}), [{"grad_norm": 4.0}, {"grad_norm": 1.0}]
    assert sasr.chooses(o, 1, [], 0.49) == SUPERVISED
    assert sasr.chooses(o, 3, history, 0.19) == SUPERVISED
    assert sasr.chooses(o, 3, history, 0.21) == REINFORCED


def gated(n: Numbers, gate: int, std: bool, how: str) -> dict[str, Tensor]:
    right = {g: sum(n.reward[j] == 1 for j in n.rollouts if n.group[j] == g) for g in n.group}
    able = [i for i in n.rollouts if right[n.group[i]] > gate]
    a = n.advantage(able, std)
    return {
        "sft": n.nll([i for i in n.demos if right[n.group[i]] <= gate]),
        "rl": n.grpo(able, lambda i, k: a[i], how),
    }


@steps
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("gate", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("std", [False, True])
def test_hpt_is_the_slow_loop(step: Step, gate: int, how: str, std: bool) -> None:
    options = {"gate": gate, "aggregation": how, "advantage_std": std}
    same(get_method("hpt"), options, step, lambda n: gated(n, gate, std, how))


def test_hpt_by_default() -> None:
    same(get_method("hpt"), {}, STEP, lambda n: gated(n, 0, False, "sequence-mean"))


@steps
@pytest.mark.parametrize("how", HOW)
def test_superrl_is_the_slow_loop(step: Step, how: str) -> None:
    same(get_method("superrl"), {"aggregation": how}, step, lambda n: gated(n, 0, True, how))


def test_hpt_at_its_gates() -> None:
    """All prompts above the gate: GRPO with A = r − mean. None: SFT."""
    equal((get_method("hpt"), {"gate": -1}), (grpo, {"advantage_std": False}), STEP)
    for gate in (3, 100):
        equal((get_method("hpt"), {"gate": gate}), (sft, {}), STEP)


def test_hpt_shows_its_share_of_sft() -> None:
    t = replace(micro_batch(policy(), STEP, ROWS), record={})
    get_method("hpt")(t, gate=1)
    tokens = sum(int(STEP.table.length[i]) for i in ROWS if STEP.table.group[i] in (0, 1))
    assert t.record is not None
    total, count = t.record["sft_share"]
    assert (float(total), count) == (tokens, int(STEP.table.length.sum()))


@steps
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("phi", [False, True])
def test_chord_is_the_slow_loop(step: Step, how: str, phi: bool) -> None:
    def slow(n: Numbers) -> dict[str, Tensor]:
        a = n.advantage(n.rollouts)

        def weight(i: int, k: int) -> float:
            p = n.p(i, k).item()
            return p * (1 - p) if phi else 1.0

        rl = n.grpo(n.rollouts, lambda i, k: a[i], how)
        return {"sft": 0.3 * n.nll(n.demos, how, weight), "rl": 0.7 * rl}

    same(get_method("chord"), {"mu": 0.3, "phi": phi, "sft_aggregation": how, "rl_aggregation": how}, step, slow)


def test_chord_at_the_ends_of_mu() -> None:
    chord = get_method("chord")
    equal((chord, {"mu": 0.0}), (grpo, {"aggregation": "token-mean"}), STEP)
    equal((chord, {"mu": 1.0}), (sft, {}), STEP)


def test_chord_phi_has_a_constant_mu() -> None:
    options = get_method("chord").preset("phi")
    for number in (1, 100, 1000):
        equal((get_method("chord"), options), (get_method("chord"), {"phi": True, "mu": 0.1}), at(number))


def mu(number: int, warmup: int = 0, over: int = 200) -> float:
    """By cases, for 0.9 and 0.05: done steps before this one."""
    done = number - 1
    if done < warmup:
        return 0.9 * done / warmup
    if done >= warmup + over:
        return 0.05
    return 0.05 + (0.9 - 0.05) / 2 * (1 + cos(pi * (done - warmup) / over))


@pytest.mark.parametrize("number", [1, 2, 51, 101, 151, 201, 202, 500])
def test_chords_mu_goes_from_09_to_005(number: int) -> None:
    t = replace(micro_batch(policy(), at(number), ROWS), record={})
    actual = get_method("chord")(t)
    fixed = get_method("chord")(micro_batch(policy(), STEP, ROWS), mu=mu(number))
    for name in ("sft", "rl"):
        assert float(actual[name].detach()) == pytest.approx(float(fixed[name].detach()), rel=1e-12)
    assert t.record is not None
    total, count = t.record["mu"]
    assert float(total) / count == pytest.approx(mu(number))


def test_schedule_by_hand() -> None:
    assert mu(1) == pytest.approx(0.9)
    assert mu(101) == pytest.approx(0.475)  # half-way
    assert mu(201) == pytest.approx(0.05)
    for number in range(1, 40):
        assert warmup_cosine(number, 10, 0.9, 0.05, 20) == pytest.approx(mu(number, 10, 20))
    assert warmup_cosine(1, 10, 0.9, 0.05, 20) == 0
    assert warmup_cosine(11, 10, 0.9, 0.05, 20) == pytest.approx(0.9)
    assert warmup_cosine(31, 10, 0.9, 0.05, 20) == pytest.approx(0.05)


@pytest.mark.parametrize("name", ["uft", "chord", "sft+rl", "superrl", "sasr"])
def test_reward_of_a_demonstration_does_not_matter(name: str) -> None:
    """Where A is over the rollouts alone, what the verifier says of a demonstration changes nothing."""
    reward = STEP.table.reward.clone()
    reward[STEP.table.is_demo] = 0
    other = replace(STEP, table=replace(STEP.table, reward=reward))
    _, one = gradient(get_method(name), {}, STEP, [ROWS])
    _, two = gradient(get_method(name), {}, other, [ROWS])
    assert torch.equal(one, two)
