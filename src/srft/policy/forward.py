"""The forward pass: log-probs and entropy of response tokens alone, the vocabulary seen one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srft.errors import SrftError
from srft.policy.adapters import dequantized, is_quantized, save_base
from srft.policy.head import is_linear, linear_head, logits, scaled_logits
from srft.policy.micro_batch import MicroBatch
from srft.policy.packing import packs, response_states
from srft.processes import whole

CHUNK = 1024  # tokens whose logits exist at once
Quantity = Callable[[Tensor, Tensor | None], Tensor]  # log π (C, V) and log π_ref (C, V) → (C,)


class TokenValues(NamedTuple):
    """What a policy says of the N response tokens of a micro-batch, in the order of `MicroBatch.row`; float32 or wider.

    Attributes:
        logp: (N,) log π (nats), at each token's temperature, e.g. [-0.1, -2.3].
        entropy: (N,) entropy of π over the vocabulary (nats), at each token's temperature, e.g. [0.4, 1.9].
        quantities: (N,) by name, what was asked for of the whole vocabulary, e.g. {"rbf": [1, 6]}.
    """

    logp: Tensor
    entropy: Tensor
    quantities: dict[str, Tensor]


class TakesWeights(Protocol):
    """A sampler, as the policy sees it."""

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None: ...


class Policy(nn.Module):
    """A causal LM that answers with log π and H of its response tokens.

    Args:
        model: a transformers causal LM (or a peft model around one).

    `packed` says that it computes a micro-batch as one row without padding.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        _check_head(self.causal_lm)
        self.packed = packs(self.causal_lm)

    @property
    def causal_lm(self) -> Any:
        """The causal LM itself, its LoRA layers in place."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(
        self, batch: MicroBatch, quantities: Mapping[str, Quantity] = {}, reference: Policy | None = None
    ) -> TokenValues:
        """log π, H and the `quantities` of the response tokens, each token's at its own temperature.

        A quantity is a function of log π (C, V), and of log π_ref (C, V) where `reference` is given, to (C,).
        """
        hidden, targets = self.predicting(batch)
        if not quantities and is_linear(self.causal_lm):
            weight = self.causal_lm.get_output_embeddings().weight
            return TokenValues(*linear_head(hidden, weight, targets, batch.temperature), {})
        ref_hidden = hidden
        if reference is not None:
            with torch.no_grad():
                ref_hidden, _ = reference.predicting(batch)

        def head(h: Tensor, y: Tensor, temperature: Tensor, r: Tensor) -> tuple[Tensor, ...]:
            return self._head(h, y, temperature, quantities, r if reference is not None else None, reference)

        chunks = zip(*(x.split(CHUNK) for x in (hidden, targets, batch.temperature, ref_hidden)), strict=True)
        values = [
            checkpoint(head, *chunk, use_reentrant=False) if torch.is_grad_enabled() else head(*chunk)
            for chunk in chunks
        ]
        logp, entropy, *rest = (torch.cat(parts) for parts in zip(*values, strict=True))
        return TokenValues(logp, entropy, dict(zip(quantities, rest, strict=True)))

    def predicting(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """The hidden states (N, D) that predict the response tokens, and these tokens (N,)."""
        body = getattr(self.causal_lm, self.causal_lm.base_model_prefix)
        return response_states(body, batch, self.packed), batch.input_ids.flatten()[batch.before + 1]

    def _head(
        self,
        hidden: Tensor,
        targets: Tensor,
        temperature: Tensor,
        quantities: Mapping[str, Quantity],
        ref_hidden: Tensor | None,
        reference: Policy | None,
    ) -> tuple[Tensor, ...]:
        full = scaled_logits(self.causal_lm, hidden, temperature).log_softmax(-1)
        logp = full.gather(-1, targets[:, None])[:, 0]
        entropy = -(full.exp() * full).sum(-1)
        ref_logp = None
        if reference is not None and ref_hidden is not None:
            with torch.no_grad():
                ref_logp = scaled_logits(reference.causal_lm, ref_hidden, temperature).log_softmax(-1)
        return logp, entropy, *(quantity(full, ref_logp) for quantity in quantities.values())

    @property
    def has_dropout(self) -> bool:
        """Its log-probs differ from pass to pass in training."""
        config = self.causal_lm.config.to_dict()
        rates = [v for name, v in config.items() if name.endswith(("dropout", "pdrop")) and isinstance(v, float)]
        layers = [m.p for m in self.model.modules() if isinstance(m, nn.Dropout)]
        return any(rate > 0 for rate in (*rates, *layers))

    def sync(self, sampler: TakesWeights) -> None:
        """Hand the present weights to a sampler."""
        sampler.update_weights(self.weights())

    @torch.no_grad()
    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the weights of another policy of the same shape."""
        own = self.causal_lm.state_dict()
        for name, tensor in weights:
            own[name].copy_(tensor)

    @torch.no_grad()
    def weights(self, with_lora: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Names and whole tensors as a plain causal LM has them, LoRA merged in or left out, without changing the
        policy. Those of a sharded policy are gathered one by one: every process must take them all."""
        for name, tensor in self._plain_weights(with_lora):
            yield name, whole(tensor)

    def _plain_weights(self, with_lora: bool) -> Iterator[tuple[str, Tensor]]:
        if not hasattr(self.model, "peft_config"):
            yield from self.model.state_dict().items()
            return
        base = self.model.get_base_model()
        layers = {name: layer for name, layer in base.named_modules() if hasattr(layer, "base_layer")}
        quantized = {name: module for name, module in base.named_modules() if is_quantized(module)}
        for name, tensor in base.state_dict().items():
            if (module := quantized.get(name.partition(".weight")[0])) is not None:
                if not name.endswith(".weight"):
                    continue  # the scales of a quantized weight
                tensor = dequantized(module)
            layer, inside, part = name.partition(".base_layer.")
            if inside and part == "weight" and with_lora:  # not merge and unmerge, which rounds the live weights
                tensor = tensor + sum(layers[layer].get_delta_weight(a) for a in layers[layer].active_adapters)
            if "lora_" not in name:
                yield name.replace(".base_layer", ""), tensor

    def save_adapters(self, folder: Path, write: bool = True) -> None:
        """Write the LoRA adapters alone, in peft's format; every process of a sharded policy takes part."""
        adapters = {name: whole(tensor) for name, tensor in self.model.state_dict().items() if "lora_" in name}
        if write:
            self.model.save_pretrained(folder, state_dict=adapters)

    def save(self, folder: Path, tokenizer: Any, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write weights (of a LoRA policy the adapters), config and tokenizer in Hugging Face format.

        Args:
            weights: of a sharded policy, whole; its own if left out.
        """
        self.model.save_pretrained(folder, state_dict=None if weights is None else dict(weights))
        if hasattr(self.model, "peft_config"):
            save_base(self.model, folder)
        tokenizer.save_pretrained(folder)


class Critic(nn.Module):
    """V of the state before each response token: a causal LM's body with a value head.

    Args:
        model: a transformers causal LM; its vocabulary head is dropped.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.packed = packs(model)
        self.body = getattr(model, model.base_model_prefix)
        width = model.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, bias=False)
        nn.init.normal_(self.head.weight, std=1 / (width + 1))  # as Open-Reasoner-Zero's

    def forward(self, batch: MicroBatch) -> Tensor:
        """(N,) in the order of `batch.row`, float32 or wider."""
        value = self.head(response_states(self.body, batch, self.packed)).sum(
            -1
        )  # of one; a view would not do, sharded
        return value.to(torch.promote_types(value.dtype, torch.float32))


@torch.no_grad()
def _check_head(causal_lm: Any) -> None:
    """Our body and head must give the model's own logits, or a family with another head would train on wrong ones."""
    if causal_lm.device.type == "meta":
        return
    mode = causal_lm.training
    causal_lm.eval()
    ids = torch.arange(1, 5, device=causal_lm.device)[None] % causal_lm.config.get_text_config().vocab_size
    mask = torch.ones_like(ids)
    body = getattr(causal_lm, causal_lm.base_model_prefix)
    ours = logits(causal_lm, body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state)
    theirs = causal_lm(input_ids=ids, attention_mask=mask, use_cache=False).logits
    causal_lm.train(mode)
    if not torch.allclose(ours.float(), theirs.float(), rtol=1e-3, atol=1e-3):
        raise SrftError(
            f"{type(causal_lm).__name__} does more to its logits than body and head",
            where="model.path",
            fix="This architecture is not supported yet; open an issue with its name.",
        )
