"""The forward pass: log-probs and entropy of response tokens alone, the vocabulary seen one chunk at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srft.errors import SrftError
from srft.policy.batch import MicroBatch

CHUNK = 1024  # tokens whose logits exist at once


class Policy(nn.Module):
    """A causal LM that answers with log π and H of its response tokens.

    Args:
        model: a transformers causal LM (or a peft model around one).
        temperature: of the policy that samples; log π and H are those of the distribution sampled from.
    """

    def __init__(self, model: Any, temperature: float = 1.0) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        _check_head(self.causal_lm)

    @property
    def causal_lm(self) -> Any:
        """The causal LM itself, its LoRA layers in place."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """log π and the vocabulary entropy (nats), (N,) each, float32 or wider, in the order of `batch.row`."""
        hidden = _hidden(self.causal_lm, batch.input_ids, batch.attention_mask)
        before = batch.is_response[:, 1:]  # the position before a token predicts it
        hidden, targets = hidden[:, :-1][before], batch.input_ids[:, 1:][before]
        if not len(targets):
            empty = hidden.sum(-1).float()
            return empty, empty
        chunks = [
            checkpoint(self._head, h, y, use_reentrant=False) if torch.is_grad_enabled() else self._head(h, y)
            for h, y in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
        ]
        logp, entropy = zip(*chunks, strict=True)
        return torch.cat(logp), torch.cat(entropy)

    def _head(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = _logits(self.causal_lm, hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
        logz = logits.logsumexp(-1)
        logp = logits.gather(-1, targets[:, None])[:, 0] - logz
        entropy = logz - ((logits - logz[:, None]).exp() * logits).sum(-1)
        return logp, entropy


def _hidden(causal_lm: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    body = getattr(causal_lm, causal_lm.base_model_prefix)
    return body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state


def _logits(causal_lm: Any, hidden: Tensor) -> Tensor:
    """What the model's own forward does after the body: the head, and for some families a scale or a soft cap."""
    config = causal_lm.config.get_text_config()
    logits = causal_lm.get_output_embeddings()(hidden)
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = cap * torch.tanh(logits / cap)
    return logits


@torch.no_grad()
def _check_head(causal_lm: Any) -> None:
    """Our body and head must give the model's own logits, or a family with another head would train on wrong ones."""
    if causal_lm.device.type == "meta":
        return
    mode = causal_lm.training
    causal_lm.eval()
    ids = torch.arange(1, 5, device=causal_lm.device)[None] % causal_lm.config.get_text_config().vocab_size
    mask = torch.ones_like(ids)
    ours = _logits(causal_lm, _hidden(causal_lm, ids, mask))
    theirs = causal_lm(input_ids=ids, attention_mask=mask, use_cache=False).logits
    causal_lm.train(mode)
    if not torch.allclose(ours.float(), theirs.float(), rtol=1e-3, atol=1e-3):
        raise SrftError(
            f"{type(causal_lm).__name__} does more to its logits than body and head",
            where="model.path",
            fix="This architecture is not supported yet; open an issue with its name.",
        )


@torch.no_grad()
def token_statistics(policy: Policy, batch: MicroBatch, mass: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
    """log π, entropy (nats) and branching factor of each response token, (N,) each, in the order of `batch.row`.

    The branching factor is the size of the smallest set of tokens that holds `mass` of the probability.
    """
    before = batch.is_response[:, 1:]
    hidden = _hidden(policy.causal_lm, batch.input_ids, batch.attention_mask)[:, :-1][before]
    targets = batch.input_ids[:, 1:][before]
    logp, entropy, branching = [hidden.new_zeros(0)], [hidden.new_zeros(0)], [hidden.new_zeros(0)]
    for h, y in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
        log_probs = (_logits(policy.causal_lm, h).float() / policy.temperature).log_softmax(-1)
        probs = log_probs.exp()
        logp.append(log_probs.gather(-1, y[:, None])[:, 0])
        entropy.append(-(probs * log_probs).sum(-1))
        branching.append(_smallest_set(probs, mass))
    return torch.cat(logp), torch.cat(entropy), torch.cat(branching)


def _smallest_set(probs: Tensor, mass: float) -> Tensor:
    """(N,) how many of the most probable of (N, V) hold `mass`. A few nearly always do, so few are sorted at first."""
    size, count = probs.new_zeros(len(probs)), 32
    open_rows = torch.arange(len(probs), device=probs.device)
    while len(open_rows):
        count = min(count, probs.shape[-1])
        sums = probs[open_rows].topk(count, sorted=True).values.cumsum(-1)
        size[open_rows] = ((sums < mass).sum(-1) + 1).clamp(max=count).to(size.dtype)
        if count == probs.shape[-1]:
            break
        open_rows, count = open_rows[sums[:, -1] < mass], count * 16
    return size
