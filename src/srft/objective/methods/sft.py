"""Supervised methods: the expert's demonstrations (or the policy's own selected samples) alone."""

from __future__ import annotations

import torch

from srft.objective.registry import Terms, method
from srft.objective.terms import Aggregation, aggregate, clipped, nll, response_mean
from srft.objective.tokens import Tokens
from srft.objective.vocabulary import kl_to_reference, sharpened_logp


@method("sft", needs={"demonstrations"}, source="SRFT Eq. 1")
def sft(t: Tokens, *, aggregation: Aggregation = "token-mean") -> Terms:
    """Supervised fine-tuning: −log π on demonstrations (SRFT Eq. 1)."""
    return {"sft": nll(t.demo, how=aggregation)}


@method(
    "sft-kl",
    needs={"demonstrations", "reference_distribution"},
    source="SRFT Eq. A1 (λ 0.2; 0.1 in the Chinese paper, 0.5 in PSFT's)",
    vocabulary={"kl": kl_to_reference},
)
def sft_kl(t: Tokens, *, kl_weight: float = 0.2, aggregation: Aggregation = "token-mean") -> Terms:
    """SFT + λ·KL(π‖π_ref) on demonstrations, over the whole vocabulary, π_ref the base model (SRFT Eq. A1)."""
    demo = t.demo
    return {
        "sft": nll(demo, how=aggregation),
        "kl": kl_weight * aggregate(demo, demo.vocabulary["kl"], aggregation),
    }


@method("dft", needs={"demonstrations"}, source="DFT, arXiv 2508.05629, Eq. 9")
def dft(t: Tokens, *, aggregation: Aggregation = "token-mean") -> Terms:
    """Dynamic fine-tuning: −sg(π)·log π on demonstrations (DFT)."""
    return {"sft": nll(t.demo, t.demo.prob.detach(), aggregation)}


@method("iw-sft", needs={"demonstrations", "reference"}, source="iw-SFT, arXiv 2507.12856")
def iw_sft(t: Tokens, *, max_weight: float = 16.0, aggregation: Aggregation = "token-mean") -> Terms:
    """Importance-weighted SFT: a response's weight is clamp(exp(mean_t(log π − log π_ref)), 0, 16) (iw-SFT)."""
    demo = t.demo
    assert demo.ref_logp is not None
    w = response_mean(demo, (demo.logp - demo.ref_logp).detach()).exp().clamp(max=max_weight)
    demo.observe("w_sft", w)
    return {"sft": nll(demo, w, aggregation)}


@method("gem", needs={"demonstrations"}, source="GEM, arXiv 2408.16673", vocabulary={"sharpened": sharpened_logp})
def gem(t: Tokens, *, beta: float = 0.7, aggregation: Aggregation = "token-mean") -> Terms:
    """−Σ_v q_v·(log π(y) − log π(v)) on demonstrations, q = sg softmax(logits/β) (GEM)."""
    demo = t.demo
    return {"gem": -aggregate(demo, demo.logp - demo.vocabulary["sharpened"], aggregation)}


@method("psft", needs={"demonstrations", "old_logp"}, source="PSFT Eq. 5", settings={"optim.updates_per_batch": 8})
def psft(
    t: Tokens, *, clip_low: float = 0.28, clip_high: float = 0.28, aggregation: Aggregation = "token-mean"
) -> Terms:
    """Proximal SFT: −min(ρ, clip(ρ, 1−ε, 1+ε)) on demonstrations, A ≡ 1, π_old taken anew at every batch (PSFT Eq. 5).

    With one update per batch ρ ≡ 1 and the gradient is SFT's; the paper makes 256 / 32 = 8.
    """
    demo = t.demo.with_token_advantage(torch.ones_like(t.demo.logp))
    return {"psft": clipped(demo, clip_low, clip_high, how=aggregation)}


@method("rft", needs={"demonstrations"}, source="exploration study, §4.2", settings={"data.selection.keep": "correct"})
def rft(t: Tokens, *, aggregation: Aggregation = "token-mean") -> Terms:
    """Rejection-sampling fine-tuning: SFT on the policy's own verified samples (exploration study, §4.2).

    What is sampled and kept is the recipe's `data.selection`; the samples take the demonstrations' place.
    """
    return {"sft": nll(t.demo, how=aggregation)}
