"""The forward pass: log-probs and entropy of response tokens alone, the vocabulary seen one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srft.errors import SrftError
from srft.policy.batch import MicroBatch

CHUNK = 1024  # tokens whose logits exist at once
Head = Callable[[Tensor, Tensor | None], Tensor]


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

    def forward(
        self, batch: MicroBatch, quantities: Mapping[str, Head] = {}, reference: Policy | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """log π, the vocabulary entropy (nats) and the `quantities` of the whole vocabulary by name, (N,) each, float32
        or wider, in the order of `batch.row`.

        A quantity is a function of log π (C, V), and of log π_ref (C, V) where `reference` is given, to (C,).
        """
        hidden, targets = _predicting(self.causal_lm, batch)
        if not len(targets):
            empty = hidden.sum(-1).float()
            return empty, empty, dict.fromkeys(quantities, empty)
        other = hidden
        if reference is not None:
            with torch.no_grad():
                other, _ = _predicting(reference.causal_lm, batch)

        def head(h: Tensor, y: Tensor, o: Tensor) -> tuple[Tensor, ...]:
            return self._head(h, y, quantities, o if reference is not None else None, reference)

        chunks = [
            checkpoint(head, h, y, o, use_reentrant=False) if torch.is_grad_enabled() else head(h, y, o)
            for h, y, o in zip(hidden.split(CHUNK), targets.split(CHUNK), other.split(CHUNK), strict=True)
        ]
        logp, entropy, *rest = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        return logp, entropy, dict(zip(quantities, rest, strict=True))

    def _head(
        self,
        hidden: Tensor,
        targets: Tensor,
        quantities: Mapping[str, Head],
        other: Tensor | None,
        reference: Policy | None,
    ) -> tuple[Tensor, ...]:
        logits = self._scaled(hidden)
        logz = logits.logsumexp(-1)
        logp = logits.gather(-1, targets[:, None])[:, 0] - logz
        entropy = logz - ((logits - logz[:, None]).exp() * logits).sum(-1)
        if not quantities:
            return logp, entropy
        ref_logp = None
        if reference is not None and other is not None:
            with torch.no_grad():
                ref_logp = reference._scaled(other).log_softmax(-1)
        full = logits - logz[:, None]
        return logp, entropy, *(quantity(full, ref_logp) for quantity in quantities.values())

    def _scaled(self, hidden: Tensor) -> Tensor:
        logits = _logits(self.causal_lm, hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature


class Critic(nn.Module):
    """V of the state before each response token: a causal LM's body with a value head.

    Args:
        model: a transformers causal LM; its vocabulary head is dropped.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body = getattr(model, model.base_model_prefix)
        width = model.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, bias=False)
        nn.init.normal_(self.head.weight, std=1 / (width + 1))  # as Open-Reasoner-Zero's

    def forward(self, batch: MicroBatch) -> Tensor:
        """(N,) in the order of `batch.row`, float32 or wider."""
        hidden = self.body(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        value = self.head(hidden[:, :-1][batch.is_response[:, 1:]])[:, 0]
        return value.to(torch.promote_types(value.dtype, torch.float32))


def _predicting(causal_lm: Any, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """The hidden states (N, D) that predict the response tokens, and these tokens (N,)."""
    hidden = _hidden(causal_lm, batch.input_ids, batch.attention_mask)
    response = batch.is_response[:, 1:]  # the position before a token predicts it
    return hidden[:, :-1][response], batch.input_ids[:, 1:][response]


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
