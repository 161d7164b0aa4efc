"""SRFT: four terms in one step, balanced by the policy's entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from srft.objective.advantage import group_advantage
from srft.objective.registry import Need, Terms, method
from srft.objective.terms import (
    Aggregation,
    EntropyScope,
    aggregate,
    clipped,
    entropy_weight,
    luffy_shaping,
    nll,
    policy_gradient,
)
from srft.objective.tokens import Tokens


def _srft_needs(options: Mapping[str, Any]) -> set[Need]:
    needs: set[Need] = {"demonstrations", "rollouts"}
    if options["rollout_signal"] == "advantage":
        needs.add("old_logp")
    if options["entropy_scope"] == "batch":
        needs.add("means")
    return needs


@method(
    "srft",
    needs=_srft_needs,
    uses_advantage=lambda options: options["rollout_signal"] == "advantage",  # the binary signal is not A
    source="SRFT Eqs. 7, 8, 9, 12, 13",
    presets={
        "paper-en": {},
        "paper-zh": {"method.scale_sft": 1.0, "method.scale_rl": 1.0},
        "hpt": {
            "method.advantage_std": False,
            "method.demo_shaping": "luffy",
            "method.aggregation": "constant",
            "method.sft_aggregation": "token-mean",
            "method.rollout_count": "all",
            "method.entropy_bonus": 0.001,
            "rollout.demo_slots": "replace",
            "optim.updates_per_batch": 2,
        },
    },
)
def srft(
    t: Tokens,
    *,
    scale_sft: float = 0.5,
    scale_rl: float = 0.1,
    weight_sft: Literal["entropy", "one"] = "entropy",
    weight_rl: Literal["entropy", "one"] = "entropy",
    entropy_scope: EntropyScope = "sample",
    entropy_cap: float | None = None,
    aggregation: Aggregation = "token-mean",
    sft_aggregation: Aggregation | None = None,
    rollout_signal: Literal["binary", "advantage"] = "binary",
    rollout_count: Literal["each", "joint", "all"] = "each",
    demo_shaping: Literal["none", "luffy"] = "none",
    shaping_gamma: float = 0.1,
    advantage_std: bool = True,
    wrong_floor: float | None = None,
    clip: float = 0.2,
    entropy_bonus: float = 0.0,
) -> Terms:
    """SFT and RL on demonstrations, RL on rollouts, balanced by the policy's entropy (SRFT Eqs. 7, 8, 9, 12, 13).

    Options: `scale_*` the constants before sg(exp(∓H)); `weight_*: one` the ablations of Table 3; `entropy_scope` what
    H is the mean of, `entropy_cap` a bound on it (nats); `aggregation` of all terms, `sft_aggregation` of Eq. 8 apart;
    `rollout_signal: advantage` puts A and the clipped ratio (`clip`) into Eq. 12 for the binary signal;
    `rollout_count`: what Eq. 12's terms are divided by: `each` by the count of its own rollouts, as Eq. 12 is printed,
    or both by the `joint` count of all rollouts, of which alone Eq. 11 is an identity, or these and Eq. 9's by that of
    `all` responses, demonstrations and rollouts;
    `demo_shaping: luffy` takes π/(π+`shaping_gamma`) for the ratio of Eq. 9; `wrong_floor` (nats) stops pushing wrong
    tokens whose log π is below it; `entropy_bonus` rewards entropy on all tokens.
    """
    t = t.with_advantage(group_advantage(t, advantage_std))  # Eq. 7
    demo, correct, wrong = t.demo, t.rollout.correct, t.rollout.wrong
    counted = {"each": None, "joint": t.rollout, "all": t}[rollout_count]

    w_sft = scale_sft * entropy_weight(demo, -1, entropy_scope, entropy_cap) if weight_sft == "entropy" else 1.0
    w_rl = scale_rl * entropy_weight(correct, +1, entropy_scope, entropy_cap) if weight_rl == "entropy" else 1.0
    ratio = luffy_shaping(demo.prob, shaping_gamma) if demo_shaping == "luffy" else demo.prob  # π_β ≡ 1

    demo.observe("w_sft", torch.as_tensor(w_sft).expand(demo.logp.shape))
    correct.observe("w_rl", torch.as_tensor(w_rl).expand(correct.logp.shape))

    terms = {
        "sft_demo": nll(demo, w_sft, sft_aggregation or aggregation),  # Eq. 8
        "rl_demo": policy_gradient(demo, ratio, aggregation, over=t if rollout_count == "all" else None),  # Eq. 9
    }
    if rollout_signal == "binary":
        if wrong_floor is not None:
            wrong = wrong.frozen(wrong.logp < wrong_floor)
        terms["rl_correct"] = nll(correct, w_rl, aggregation, over=counted)  # Eq. 12, first term
        terms["rl_wrong"] = -nll(wrong, how=aggregation, over=counted)  # Eq. 12, second term
    else:
        terms["rl_correct"] = clipped(correct, clip, clip, w_rl, aggregation, over=counted)
        terms["rl_wrong"] = clipped(wrong, clip, clip, 1.0, aggregation, over=counted)
    if entropy_bonus:
        terms["entropy_bonus"] = -entropy_bonus * aggregate(t, t.entropy)
    return terms  # Eq. 13: their sum
