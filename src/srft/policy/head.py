"""From hidden states to log π and entropy of tokens, the vocabulary seen one chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = 2**24  # logits that exist at once: 64 MiB in float32


def scaled_logits(causal_lm: Any, hidden: Tensor, temperature: Tensor) -> Tensor:
    """(C, V) logits over each token's temperature (C,), float32 or wider."""
    z = logits(causal_lm, hidden)
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return z / temperature[:, None].to(z.dtype)


def logits(causal_lm: Any, hidden: Tensor) -> Tensor:
    """What the model's own forward does after the body: the head, and for some families a scale or a soft cap."""
    config = causal_lm.config.get_text_config()
    z = causal_lm.get_output_embeddings()(hidden)
    if scale := getattr(config, "logit_scale", None):  # Cohere
        z = z * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        z = z / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        z = cap * torch.tanh(z / cap)
    return z


def is_linear(causal_lm: Any) -> bool:
    """The logits are a product with a matrix, and nothing more."""
    config, head = causal_lm.config.get_text_config(), causal_lm.get_output_embeddings()
    more = any(getattr(config, name, None) for name in ("logit_scale", "logits_scaling", "final_logit_softcapping"))
    return type(head) is nn.Linear and head.bias is None and not more


def linear_head(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) log π of the `targets` and (N,) entropy, float32 or wider, of the logits hidden (N, D) · weightᵀ (D, V) over
    the temperature (N,). No logits are kept for the backward pass, which computes them again."""
    logp, entropy = _LinearHead.apply(hidden, weight, targets, temperature)
    return logp, entropy


class _LinearHead(torch.autograd.Function):
    """With p = softmax(z), z the logits over the temperature: ∂log p_y/∂z = 1_y − p and ∂H/∂z = −p (log p + H)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: Tensor) -> tuple[Tensor, ...]:
        kind = hidden.device.type
        if torch.is_autocast_enabled(kind):
            hidden, weight = (x.to(torch.get_autocast_dtype(kind)) for x in (hidden, weight))
        values = []
        with torch.autocast(kind, enabled=False):
            for h, y, tau in _chunks(weight, hidden, targets, temperature):
                z = _product(h, weight, tau)
                logz = z.logsumexp(-1)
                logp = z.sub_(logz[:, None])
                values.append((logp.gather(-1, y[:, None])[:, 0], -logp.exp().mul_(logp).sum(-1), logz))
        logp_y, entropy, logz = (torch.cat(x) for x in zip(*values, strict=True))
        ctx.save_for_backward(hidden, weight, targets, temperature, logz, entropy)
        ctx.set_materialize_grads(False)
        return logp_y, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, temperature, logz, entropy = ctx.saved_tensors
        grad_logp, grad_entropy = (torch.zeros_like(logz) if g is None else g for g in grads)
        grad_hidden, grad_weight = torch.empty_like(hidden), None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight, dtype=logz.dtype)
        chunks = _chunks(weight, hidden, grad_hidden, targets, temperature, logz, entropy, grad_logp, grad_entropy)
        for h, dh, y, tau, lz, entropy_, g, gh in chunks:
            logp = _product(h, weight, tau).sub_(lz[:, None])
            slope = -g[:, None] if grads[1] is None else (logp + entropy_[:, None]).mul_(-gh[:, None]).sub_(g[:, None])
            dz = logp.exp_().mul_(slope)
            dz.scatter_add_(-1, y[:, None], g[:, None])
            dz = dz.div_(tau[:, None]).to(weight.dtype)
            dh.copy_(dz @ weight)
            if grad_weight is not None:
                grad_weight += dz.T @ h
        return grad_hidden, grad_weight, None, None


def _product(hidden: Tensor, weight: Tensor, temperature: Tensor) -> Tensor:
    """(C, V) hidden · weightᵀ over the temperature, float32 or wider."""
    z = hidden @ weight.T
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return z.div_(temperature[:, None].to(z.dtype))


def _chunks(weight: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    size = max(CHUNK_ELEMENTS // len(weight), 1)
    return zip(*(x.split(size) for x in tensors), strict=True)
