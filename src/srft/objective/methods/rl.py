"""Reinforcement-learning methods: the policy's own rollouts alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from srft.objective.advantage import (
    advantage_moments,
    gae,
    group_advantage,
    overlong_penalty,
    process_advantage,
    whitened,
)
from srft.objective.registry import Need, Terms, method
from srft.objective.terms import Aggregation, clipped, kl, outcome_loss, value_loss
from srft.objective.tokens import Tokens


def _needs(options: Mapping[str, Any]) -> set[Need]:
    return {"rollouts", "old_logp"} | ({"reference"} if options["kl_weight"] else set())  # type: ignore[return-value]


@method("grpo", needs=_needs, source="SRFT Eqs. 2, 3; max_prob: SRFT App. A.2")
def grpo(
    t: Tokens,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    advantage_std: bool = True,
    kl_weight: float = 0.0,
    max_prob: float | None = None,
    aggregation: Aggregation = "sequence-mean",
) -> Terms:
    """Group relative policy optimization: −min(ρA, clip(ρ)A), A within the group (SRFT Eqs. 2, 3).

    `max_prob`: no gradient on tokens whose π exceeds it (low-entropy gradient clipping, App. A.2: 0.5, 0.8, 0.9).
    """
    t = t.rollout
    if max_prob is not None:
        t = t.frozen(t.prob > max_prob)
    t = t.with_advantage(group_advantage(t, advantage_std))  # Eq. 2
    terms = {"rl": clipped(t, clip_low, clip_high, how=aggregation)}  # Eq. 3
    if kl_weight:
        terms["kl"] = kl_weight * kl(t, aggregation)
    return terms


@method("dr-grpo", needs={"rollouts", "old_logp"}, source="Dr. GRPO, arXiv 2503.20783")
def dr_grpo(t: Tokens, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Terms:
    """GRPO with A = r − mean and a constant for the length: no bias to short or to easy (Dr. GRPO)."""
    return grpo(t, clip_low=clip_low, clip_high=clip_high, advantage_std=False, aggregation="constant")


@method("dapo", needs={"rollouts", "old_logp"}, source="DAPO, arXiv 2503.14476", settings={"hooks.refill.rounds": 10})
def dapo(
    t: Tokens,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
    overlong_buffer: float = 0.2,
    aggregation: Aggregation = "token-mean",
) -> Terms:
    """Clip-higher, dual clip, token mean, overlong punishment; `hooks.refill` samples dynamically (DAPO).

    `overlong_buffer`: the share of the length limit in which the reward, 1 for right and −1 for wrong, falls by up to 1
    (4096 of 20480 in the paper, 2k of 10k in PSFT's).
    """
    t = t.rollout
    reward = 2 * t.responses.reward - 1 + overlong_penalty(t, overlong_buffer)  # the penalty is measured against ±1
    t = t.with_advantage(group_advantage(t, reward=reward))
    return {"rl": clipped(t, clip_low, clip_high, how=aggregation, dual=dual_clip)}


def _ppo_needs(options: Mapping[str, Any]) -> set[Need]:
    needs: set[Need] = {"rollouts", "old_logp", "critic"}
    return needs | {"means"} if options["whiten"] else needs


def _ppo_measure(t: Tokens, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    return advantage_moments(t, gae(t, options["gamma"], options["lam"]))


@method("ppo", needs=_ppo_needs, measure=_ppo_measure, source="PPO as in Open-Reasoner-Zero, arXiv 2503.24290")
def ppo(
    t: Tokens,
    *,
    clip: float = 0.2,
    gamma: float = 1.0,
    lam: float = 1.0,
    value_clip: float = 0.2,
    whiten: bool = True,
    aggregation: Aggregation = "token-mean",
) -> Terms:
    """PPO with a critic: A by GAE(γ, λ), whitened over the batch; the clipped value loss (Open-Reasoner-Zero).

    The critic is the policy's architecture with a value head and an optimizer of its own (`optim.auxiliary_lr`).
    """
    t = t.rollout
    a = gae(t, gamma, lam)
    assert t.value is not None
    returns = a + (t.value if t.old_value is None else t.old_value).detach()
    t.observe("value", t.value)
    return {
        "rl": clipped(t.with_token_advantage(whitened(t, a) if whiten else a), clip, clip, how=aggregation),
        "value": value_loss(t, returns, value_clip),
    }


def _process_reward(t: Tokens, beta: float) -> Tensor:
    """(N,) β log(π_φ/π_ref), in the graph of φ."""
    assert t.reward_logp is not None
    return beta * (t.reward_logp - _ref(t))


def _prime_measure(t: Tokens, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    return {"process": _process_reward(t, options["beta"])}


@method(
    "prime",
    needs={"rollouts", "old_logp", "means", "reference", "reward_model"},
    measure=_prime_measure,
    source="PRIME, arXiv 2502.01456",
)
def prime(
    t: Tokens, *, beta: float = 0.05, gamma: float = 1.0, clip: float = 0.2, aggregation: Aggregation = "token-mean"
) -> Terms:
    """Implicit process reward β·log(π_φ/π_ref) and outcome reward, each less the mean of the group's others; φ learns
    from the outcome (PRIME).

    φ begins as the base model and has an optimizer of its own (`optim.auxiliary_lr`); a batch is judged by φ before φ
    learns from it. As in the paper's formula A is not whitened and r_φ not normalised; its released code does both.
    """
    t = t.rollout
    process = _process_reward(t, beta)
    before = process if t.old_reward_logp is None else beta * (t.old_reward_logp - _ref(t))
    a = process_advantage(t, before.detach(), gamma)
    return {
        "rl": clipped(t.with_token_advantage(a), clip, clip, how=aggregation),
        "reward_model": outcome_loss(t, process),
    }


def _ref(t: Tokens) -> Tensor:
    assert t.ref_logp is not None
    return t.ref_logp.detach()
