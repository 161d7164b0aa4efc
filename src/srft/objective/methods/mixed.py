"""Methods that mix demonstrations and rollouts: by weight, by prompt, by step, or inside the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srft.objective.advantage import group_advantage, right_rollouts
from srft.objective.methods.rl import grpo
from srft.objective.methods.sft import sft
from srft.objective.registry import History, Need, Terms, method
from srft.objective.terms import Aggregation, aggregate, luffy_shaping, nll, policy_gradient, warmup_cosine
from srft.objective.tokens import Tokens

BOTH: set[Need] = {"demonstrations", "rollouts", "old_logp"}


@method("sft+rl", needs=BOTH, source="SRFT Sec. 3.2.2")
def sft_rl(
    t: Tokens,
    *,
    sft_weight: float = 1.0,
    rl_weight: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    advantage_std: bool = True,
    sft_aggregation: Aggregation = "token-mean",
    rl_aggregation: Aggregation = "sequence-mean",
) -> Terms:
    """L_SFT + L_GRPO in a single stage, A over the rollouts alone (SRFT Sec. 3.2.2)."""
    supervised = sft(t, aggregation=sft_aggregation)["sft"]
    reinforced = grpo(
        t, clip_low=clip_low, clip_high=clip_high, advantage_std=advantage_std, aggregation=rl_aggregation
    )["rl"]
    return {"sft": sft_weight * supervised, "rl": rl_weight * reinforced}


@method(
    "luffy",
    needs=BOTH,
    source="LUFFY, arXiv 2504.14945",
    presets={
        "paper": {},
        "code": {"method.advantage_std": False, "method.aggregation": "constant", "method.entropy_bonus": 0.001},
    },
    settings={"rollout.demo_slots": "replace"},
)
def luffy(
    t: Tokens,
    *,
    gamma: float = 0.1,
    advantage_std: bool = True,
    aggregation: Aggregation = "token-mean",
    entropy_bonus: float = 0.0,
) -> Terms:
    """−ρA on rollouts and −f(π)·A on demonstrations, f(x) = x/(x+γ), π_β ≡ 1, one A and one count for both (LUFFY)."""
    t = t.with_advantage(group_advantage(t, advantage_std))
    demo, rollout = t.demo, t.rollout
    terms = {
        "rl_demo": policy_gradient(demo, luffy_shaping(demo.prob, gamma), aggregation, over=t),
        "rl_rollout": policy_gradient(rollout, rollout.ratio, aggregation, over=t),
    }
    if entropy_bonus:
        terms["entropy_bonus"] = -entropy_bonus * aggregate(t, t.entropy)
    return terms


@method(
    "relift", needs={"rollouts", "old_logp"}, source="ReLIFT, arXiv 2506.07527", settings={"hooks.buffer.size": 128}
)
def relift(
    t: Tokens, *, clip_low: float = 0.2, clip_high: float = 0.2, aggregation: Aggregation = "sequence-mean"
) -> Terms:
    """GRPO; demonstrations of prompts that no rollout solves are kept, and learnt by SFT in batches (ReLIFT).

    What is kept and when it is learnt is the recipe's `hooks.buffer` (128, with an AdamW of its own).
    """
    return grpo(t, clip_low=clip_low, clip_high=clip_high, aggregation=aggregation)


@method(
    "tapo",
    needs={"rollouts", "old_logp"},
    source="TAPO, arXiv 2505.15692",
    settings={"rollout.prompting.strategy": "thought-patterns"},
)
def tapo(
    t: Tokens,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    advantage_std: bool = True,
    aggregation: Aggregation = "sequence-mean",
) -> Terms:
    """GRPO on a group of which a part was sampled with a thought pattern in its prompt (TAPO, from the paper's text).

    Decided here, as there is no public code: patterns are demonstrations with their numbers blanked, chosen by the
    nearest number of conditions (`rollout.prompting`, where a library of one's own may be named); the paper searches
    for them with MCTS. Guided rollouts are learnt under the guided prompt; one advantage for the whole group.
    """
    return grpo(t, clip_low=clip_low, clip_high=clip_high, advantage_std=advantage_std, aggregation=aggregation)


@method(
    "uft",
    needs={*BOTH, "reference"},
    source="UFT, arXiv 2505.16984",
    settings={"rollout.prompting.strategy": "hints"},
)
def uft(
    t: Tokens,
    *,
    hint_weight: float = 0.001,
    kl_weight: float = 0.001,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    aggregation: Aggregation = "sequence-mean",
) -> Terms:
    """GRPO + 0.001·KL on rollouts that begin after a hint, the solution's first chunks; + 0.001·CE on the hint (UFT).

    The hint's length is `rollout.prompting`'s; the hints stand where other methods have demonstrations.
    """
    terms = grpo(t, clip_low=clip_low, clip_high=clip_high, kl_weight=kl_weight, aggregation=aggregation)
    return {**terms, "sft_hint": hint_weight * nll(t.demo)}


def _sasr_chooses(options: Mapping[str, Any], step: int, history: History, draw: float) -> frozenset[Need]:
    # Of SFT steps, which have no rollouts; a step that found no group at all has no norm.
    norms = [row["grad_norm"] for row in history if "grad_norm" in row and "reward" not in row]
    warmup_steps = options["warmup_steps"]
    if step > warmup_steps:
        warmup = norms[max(min(warmup_steps, len(norms)), 1) - 1] if norms else 1.0
        last = norms[-1] if norms else 1.0
        if draw >= last / max(last + options["gamma"] * warmup, 1e-12):
            return frozenset({"rollouts", "old_logp"})
    return frozenset({"demonstrations"})


@method("sasr", needs=BOTH, chooses=_sasr_chooses, source="SASR, arXiv 2505.13026")
def sasr(
    t: Tokens,
    *,
    warmup_steps: int = 50,
    gamma: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    rl_aggregation: Aggregation = "sequence-mean",
) -> Terms:
    """SFT warm-up, then each step SFT with probability G_last/(G_last + γ·G_warm-up), else GRPO (SASR, from its text).

    G is the gradient norm of an SFT step: of the warm-up's last, and of the last one. Decided here, as there is no
    public code and no value printed where we could read it: γ 1, 50 warm-up steps, plain GRPO without KL.
    """
    return {**sft(t), **grpo(t, clip_low=clip_low, clip_high=clip_high, aggregation=rl_aggregation)}


@method("hpt", needs=BOTH, source="HPT, arXiv 2509.04419", settings={"rollout.demo_slots": "add"})
def hpt(
    t: Tokens,
    *,
    gate: int = 0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    advantage_std: bool = False,
    aggregation: Aggregation = "sequence-mean",
) -> Terms:
    """By prompt: SFT on the demonstration where at most `gate` rollouts are right, else GRPO with A = r − mean (HPT).

    gate 0 for Qwen, 2 for Llama in the paper.
    """
    above_gate = right_rollouts(t) > gate
    t.observe("sft_share", (~above_gate)[t.row].double())
    reinforced = grpo(
        t.where(above_gate),
        clip_low=clip_low,
        clip_high=clip_high,
        advantage_std=advantage_std,
        aggregation=aggregation,
    )
    return {**sft(t.where(~above_gate)), **reinforced}


@method("superrl", needs=BOTH, source="SuperRL, arXiv 2506.01096")
def superrl(
    t: Tokens, *, clip_low: float = 0.2, clip_high: float = 0.2, aggregation: Aggregation = "sequence-mean"
) -> Terms:
    """SFT on a prompt when all its rollouts fail, GRPO otherwise (SuperRL, from the paper's text).

    Decided here: GRPO as in SRFT Eq. 3 with A over the deviation, and each part over its own count. The paper's other
    variants (gates by batch, learnt weights) are not built.
    """
    return hpt(t, gate=0, advantage_std=True, clip_low=clip_low, clip_high=clip_high, aggregation=aggregation)


@method(
    "chord",
    needs=BOTH,
    source="CHORD, arXiv 2508.11408",
    presets={"mu": {}, "phi": {"method.phi": True, "method.mu": 0.1}},
)
def chord(
    t: Tokens,
    *,
    mu: float | None = None,
    mu_peak: float = 0.9,
    mu_low: float = 0.05,
    mu_warmup: int = 0,
    mu_steps: int = 200,
    phi: bool = False,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    sft_aggregation: Aggregation = "token-mean",
    rl_aggregation: Aggregation = "token-mean",
) -> Terms:
    """(1−μ)·GRPO + μ·SFT, μ by a schedule; φ: SFT weighted by sg(p(1−p)), at a constant μ (CHORD).

    `mu`: a constant in place of the schedule (warm-up over `mu_warmup` steps to `mu_peak`, down to `mu_low` over
    `mu_steps` as a cosine).
    """
    if mu is None:
        mu = warmup_cosine(t.responses.step, mu_warmup, mu_peak, mu_low, mu_steps)
    p = t.demo.prob.detach()
    t.observe("mu", t.logp.new_full(t.logp.shape, mu))
    reinforced = grpo(t, clip_low=clip_low, clip_high=clip_high, aggregation=rl_aggregation)["rl"]
    return {"sft": mu * nll(t.demo, p * (1 - p) if phi else 1.0, sft_aggregation), "rl": (1 - mu) * reinforced}
