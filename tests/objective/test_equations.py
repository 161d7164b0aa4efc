"""The methods against independent words: slow loops over tokens written from the paper's equations, cross_entropy,
closed forms."""

from __future__ import annotations

import random
from math import exp, inf
from statistics import fmean, stdev
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from srft.objective import Tokens, aggregate, get_method, group_advantage, grpo, nll, sft, srft
from srft.objective.terms import Aggregation, entropy_weight
from tests.objective.steps import Step, gradient, micro_batch, policy, random_step, without_rows

STEP = random_step(groups=5, rollouts=4, demos=1, seed=3)
ROWS = list(range(len(STEP.tokens)))
MIXED = without_rows(STEP, [int(STEP.table.is_demo.nonzero()[0])])  # the first prompt has no demonstration


def slow_srft(model, step: Step, **o) -> torch.Tensor:
    """Eqs. 7, 8, 9, 12 and 13, token by token."""
    o = {name: default for name, (_, default) in srft.options.items()} | o
    table, n = step.table, len(step.tokens)
    rewards, groups = table.reward.tolist(), table.group.tolist()
    demo, logps, entropies = table.is_demo.tolist(), [], []
    for context, tokens in zip(step.contexts, step.tokens, strict=True):
        logits = model(context)
        probs = logits.exp() / logits.exp().sum(-1, keepdim=True)
        logps.append([probs[i, y].log() for i, y in enumerate(tokens.tolist())])
        entropies.append([-(p * p.log()).sum() for p in probs])

    advantages = []
    for i in range(n):
        group = [rewards[j] for j in range(n) if groups[j] == groups[i]]
        spread = (stdev(group) if len(group) > 1 else 0.0) + 1e-6 if o["advantage_std"] else 1.0
        advantages.append((rewards[i] - fmean(group)) / spread)

    kinds = {
        "demo": [i for i in range(n) if demo[i]],
        "correct": [i for i in range(n) if not demo[i] and rewards[i] == 1],
        "wrong": [i for i in range(n) if not demo[i] and rewards[i] == 0],
        "rollout": [i for i in range(n) if not demo[i]],
        "all": list(range(n)),
    }

    def mean(kind: str, value, how: str, over: str | None = None):
        total, counted = 0.0, kinds[over or kind]
        for i in kinds[kind]:
            each = [value(i, k) for k in range(len(logps[i]))]
            total = total + (sum(each) / len(each) if how == "sequence-mean" else sum(each))
        if how == "token-mean":
            return total / max(sum(len(logps[i]) for i in counted), 1)
        return total / (max(len(counted), 1) * (table.limit if how == "constant" else 1))

    def entropy(kind: str, i: int, k: int) -> float:
        if o["entropy_scope"] == "token":
            return float(entropies[i][k].detach())
        if o["entropy_scope"] == "sample":
            return fmean(float(h.detach()) for h in entropies[i])
        lengths = [len(logps[j]) for j in kinds[kind]]
        return sum(float(table.mean["entropy"][j]) * m for j, m in zip(kinds[kind], lengths, strict=True)) / sum(
            lengths
        )

    cap = inf if o["entropy_cap"] is None else o["entropy_cap"]

    def w_sft(i, k):
        return o["scale_sft"] * exp(-min(entropy("demo", i, k), cap)) if o["weight_sft"] == "entropy" else 1.0

    def w_rl(i, k):
        return o["scale_rl"] * exp(min(entropy("correct", i, k), cap)) if o["weight_rl"] == "entropy" else 1.0

    def demo_ratio(i, k):
        p = logps[i][k].exp()
        return p / (p + o["shaping_gamma"]) if o["demo_shaping"] == "luffy" else p

    def surrogate(i, k):
        rho = (logps[i][k] - step.old[i][k]).exp()
        bounded = torch.clamp(rho, 1 - o["clip"], 1 + o["clip"])
        return torch.min(rho * advantages[i], bounded * advantages[i])

    def wrong(i, k):
        floor = o["wrong_floor"]
        return logps[i][k].detach() if floor is not None and float(logps[i][k].detach()) < floor else logps[i][k]

    how, over = o["aggregation"], {"each": None, "joint": "rollout", "all": "all"}[o["rollout_count"]]
    loss = mean("demo", lambda i, k: w_sft(i, k) * -logps[i][k], o["sft_aggregation"] or how)  # Eq. 8
    loss = loss - mean(
        "demo", lambda i, k: demo_ratio(i, k) * advantages[i], how, over if over == "all" else None
    )  # Eq. 9
    if o["rollout_signal"] == "binary":
        loss = loss + mean("correct", lambda i, k: w_rl(i, k) * -logps[i][k], how, over)  # Eq. 12
        loss = loss + mean("wrong", wrong, how, over)
    else:
        loss = loss - mean("correct", lambda i, k: w_rl(i, k) * surrogate(i, k), how, over)
        loss = loss - mean("wrong", surrogate, how, over)
    return loss - o["entropy_bonus"] * mean("all", lambda i, k: entropies[i][k], "token-mean")


def combinations() -> list[dict]:
    choices = {
        "entropy_scope": ["sample", "batch", "token"],
        "aggregation": ["token-mean", "sequence-mean", "token-sum", "constant"],
        "sft_aggregation": [None, "token-mean"],
        "rollout_signal": ["binary", "advantage"],
        "rollout_count": ["each", "joint", "all"],
        "demo_shaping": ["none", "luffy"],
        "advantage_std": [True, False],
        "weight_sft": ["entropy", "one"],
        "weight_rl": ["entropy", "one"],
        "entropy_cap": [None, 2.0],
        "wrong_floor": [None, -2.5],
        "entropy_bonus": [0.0, 0.01],
        "scale_sft": [0.5, 1.0],
        "scale_rl": [0.1, 1.0],
    }
    rng = random.Random(0)
    singles = [{option: value} for option, values in choices.items() for value in values]
    return singles + [{k: rng.choice(v) for k, v in choices.items()} for _ in range(40)]


@pytest.mark.parametrize("step", [STEP, MIXED], ids=["demonstrations for all", "for some"])
@pytest.mark.parametrize("options", combinations(), ids=lambda o: "-".join(map(str, o.values())))
def test_srft_is_the_slow_loop(step: Step, options: dict) -> None:
    loss, grad = gradient(srft, options, step, [range(len(step.tokens))])
    model = policy()
    expected = slow_srft(model, step, **options)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-9)
    slow = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(grad, slow, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("right", [1, 3, 7], ids=lambda n: f"{n} of 8 right")
def test_hpt_preset_is_its_description(right: int) -> None:
    """One Σ/limit per response over demonstrations and rollouts together: a wrong token weighs the same whatever share of
    the rollouts is right."""
    values = get_method("srft").preset_values("hpt")
    assert values["rollout.demo_slots"] == "replace"
    assert values["optim.updates_per_batch"] == 2
    rewards = [float(k < right) for k in range(8)]
    step = random_step(groups=2, rollouts=4, demos=1, seed=3, rewards=[*rewards[:4], 1.0, *rewards[4:], 1.0])
    table, rows = step.table, list(range(10))
    loss, grad = gradient(srft, srft.preset("hpt"), step, [rows])
    model = policy()
    every = {i: micro_batch(model, step, [i]) for i in rows}
    demo_tokens = sum(int(table.length[i]) for i in rows if table.is_demo[i])
    supervised, reinforced = torch.zeros(()).double(), torch.zeros(()).double()
    for i, t in every.items():
        a = table.reward[i] - table.reward[table.group == table.group[i]].mean()  # r − mean, no deviation
        h = float(t.entropy.mean().detach())
        if table.is_demo[i]:
            p = t.logp.exp()
            supervised = supervised + (0.5 * exp(-h) * -t.logp).sum() / demo_tokens
            reinforced = reinforced - (p / (p + 0.1) * a).sum() / table.limit
        elif table.reward[i] == 1:
            reinforced = reinforced - 0.1 * exp(h) * t.logp.sum() / table.limit
        else:
            reinforced = reinforced + t.logp.sum() / table.limit
    bonus = 0.001 * torch.cat([t.entropy for t in every.values()]).mean()
    expected = supervised + reinforced / len(rows) - bonus
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-9)
    slow = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(grad, slow, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("how", get_args(Aggregation))
def test_one_count_over_all_rollouts_makes_eq_11_an_identity(how: str) -> None:
    """−E[R·log π] over all rollouts, R = +1 for right and −1 for wrong, is the sum of Eq. 12's terms; own counts are not."""
    options, model = {"aggregation": how, "weight_rl": "one"}, policy()
    t = micro_batch(model, STEP, ROWS)
    sign = torch.where(t.rollout.responses.reward >= 1, 1.0, -1.0).double()[t.rollout.row]
    expected = aggregate(t.rollout, -sign * t.rollout.logp, how)
    joint, each = srft(t, rollout_count="joint", **options), srft(t, **options)
    torch.testing.assert_close(joint["rl_correct"] + joint["rl_wrong"], expected, rtol=1e-9, atol=1e-12)
    assert float((each["rl_correct"] + each["rl_wrong"]).detach()) != pytest.approx(float(expected.detach()), rel=0.05)
    for name in ("sft_demo", "rl_demo"):
        assert torch.equal(joint[name], each[name])


@pytest.mark.parametrize("how", get_args(Aggregation))
def test_joint_count_with_the_advantage_is_grpo(how: str) -> None:
    """Without demonstrations and weights, the two terms of Eq. 12 are GRPO's one."""
    step = random_step(groups=5, rollouts=4, demos=0, seed=4)
    rows = list(range(len(step.tokens)))
    options = {"rollout_signal": "advantage", "rollout_count": "joint", "weight_rl": "one", "aggregation": how}
    loss, grad = gradient(srft, options, step, [rows])
    expected, expected_grad = gradient(grpo, {"aggregation": how}, step, [rows])
    assert loss == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-13)


def test_paper_zh_scales_by_one() -> None:
    assert srft.preset("paper-en") == {}
    assert srft.preset("paper-zh") == {"scale_sft": 1.0, "scale_rl": 1.0}


def test_sft_is_cross_entropy() -> None:
    loss, grad = gradient(sft, {}, STEP, [ROWS])
    model, demos = policy(), [i for i in ROWS if STEP.table.is_demo[i]]
    logits = model(torch.cat([STEP.contexts[i] for i in demos]))
    expected = F.cross_entropy(logits, torch.cat([STEP.tokens[i] for i in demos]))
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(grad, torch.cat([p.grad.flatten() for p in model.parameters()]), rtol=1e-9, atol=1e-14)


def test_stop_gradients_stop() -> None:
    model = policy()
    t = micro_batch(model, STEP, ROWS).demo
    weight = entropy_weight(t, -1)
    assert not weight.requires_grad
    nll(t, weight).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    nll(micro_batch(model, STEP, ROWS).demo, torch.tensor(weight.tolist()).double()).backward()
    for a, p in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)
    assert not group_advantage(t).requires_grad


def test_ratio_is_one_where_nothing_is_old() -> None:
    model = policy()
    t = micro_batch(model, STEP, ROWS)
    fresh = Tokens(t.logp, t.entropy, t.row, t.responses)
    assert torch.equal(fresh.ratio.detach(), torch.ones_like(fresh.logp))
    _, by_old = gradient(grpo, {"clip_low": 1e9, "clip_high": 1e9}, STEP, [ROWS])
    assert by_old.abs().sum() > 0
    terms = grpo(fresh)
    terms["rl"].backward()
    assert any(p.grad.abs().sum() > 0 for p in model.parameters())


def test_advantage_of_groups() -> None:
    t = micro_batch(policy(), random_step(groups=2, rollouts=3, rewards=[1, 0, 0, 1, 1, 1, 1, 1]), list(range(8)))
    a = group_advantage(t)
    expected = torch.tensor([0.5, -0.5, -0.5, 0.5]).double() / stdev([1, 0, 0, 1])
    torch.testing.assert_close(a[:4], expected, atol=1e-5, rtol=0)
    assert torch.equal(a[4:], torch.zeros(4).double())  # equal rewards
    alone = group_advantage(micro_batch(policy(), random_step(groups=2, rollouts=1, demos=0), [0, 1]))
    assert torch.equal(alone, torch.zeros(2).double())  # groups of one
    rollouts = group_advantage(t.rollout)
    assert rollouts[3] == 0  # a demonstration is not in the rollouts' group
    assert rollouts[0] == pytest.approx((1 - 1 / 3) / stdev([1, 0, 0]), rel=1e-5)
