"""One row without padding: each distinct token of a micro-batch passes the model once, a prompt once for all its
responses. Attention alone sees the padded rows, gathered from that row layer by layer, so that values and gradients are
those of the padded rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from srft.policy.micro_batch import MicroBatch, ModelInput, pad

Attention = Callable[..., tuple[Tensor, Tensor | None]]


def response_states(body: Any, batch: MicroBatch, packed: bool) -> Tensor:
    """(N, D) the last hidden states of the positions before the response tokens, which predict them."""
    if not packed:
        hidden = body(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).last_hidden_state
        return F.embedding(batch.before, hidden.flatten(0, 1))
    ids, longest = batch.input_ids.flatten()[batch.token], batch.input_ids.shape[1]
    hidden = body(
        input_ids=ids[None],
        position_ids=(batch.token % longest)[None],
        attention_mask=batch.place[None, None],  # of four dimensions: the model makes none of its own
        use_cache=False,
        packed_place=batch.place,
        packed_token=batch.token,
    ).last_hidden_state
    return F.embedding(batch.place.flatten()[batch.before], hidden[0])


@torch.no_grad()
def packs(causal_lm: Any) -> bool:
    """The model gives for a packed row what it gives for padded rows: its tokens meet in full causal attention alone,
    which it takes from transformers' registry. Makes that attention take packed rows."""
    config = causal_lm.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    windowed = getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None)
    name = config._attn_implementation or ""
    is_causal = name == "sdpa" or name.startswith("flash_attention")  # by themselves, without a mask
    if not (is_causal and causal_lm._supports_attention_backend) or {*kinds} != {"full_attention"} or windowed:
        return False
    if not isinstance(attention := ALL_ATTENTION_FUNCTIONS[name], _PackedAttention):
        ALL_ATTENTION_FUNCTIONS.register(name, _PackedAttention(attention))
    return causal_lm.device.type == "meta" or _gives_the_same(causal_lm)


def _gives_the_same(causal_lm: Any) -> bool:
    vocabulary = causal_lm.config.get_text_config().vocab_size
    batch = pad([ModelInput([i % vocabulary for i in (1, 2)], [i % vocabulary] * (2 + i), i) for i in range(2)], 0)
    batch, body, mode = batch.to(causal_lm.device), getattr(causal_lm, causal_lm.base_model_prefix), causal_lm.training
    causal_lm.eval()
    try:
        packed, padded = (response_states(body, batch, way) for way in (True, False))
    except (TypeError, ValueError, RuntimeError):  # its forward takes no packed row
        return False
    finally:
        causal_lm.train(mode)
    return torch.allclose(packed.float(), padded.float(), rtol=1e-2, atol=1e-3)


class _PackedAttention:
    """An attention of transformers that takes packed rows too, and is unchanged for others."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        place, token = kwargs.pop("packed_place", None), kwargs.pop("packed_token", None)
        if place is None:
            return self.attention(module, query, key, value, attention_mask, **kwargs)
        kwargs["position_ids"] = None  # from which some kernels would read that rows are packed
        rows = (_unpacked(x, place) for x in (query, key, value))
        out, _ = self.attention(module, *rows, None, **kwargs)  # causal: what is padded on the right is never seen
        return out.flatten(0, 1)[token][None], None


def _unpacked(x: Tensor, place: Tensor) -> Tensor:
    """(1, H, T, d) to (B, H, L, d)."""
    heads, tokens, width = x.shape[1:]
    flat = x[0].transpose(0, 1).reshape(tokens, heads * width)
    return F.embedding(place, flat).view(*place.shape, heads, width).transpose(1, 2)
