"""The caches that rows are decoded with: one written in place, for models of plain attention, and the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from srft.rollout.attention import CPU_DECODING

GROWTH = 64  # tokens, and at least a quarter of what is there, that a cache grows by


class Rows(Protocol):
    """The rows that are decoded together: what the model keeps of each.

    Attributes:
        joins: rows can be added beside others that are decoded already.
        drop_share: finished rows are dropped once they are this share of all.
    """

    joins: bool
    drop_share: float

    def add(self, prompts: Cache, mask: Tensor, copies: Sequence[int]) -> None:
        """Take up prompts that the model has read.

        Args:
            prompts: the model's cache of P prompts, padded on the left to L tokens.
            mask: (P, L), 0 where it is padding.
            copies: (P,), rows of each prompt.
        """

    def next_inputs(self) -> dict[str, Any]:
        """What the model needs beside the rows' next tokens, one each; to be asked for once a step."""

    def keep(self, order: Sequence[int]) -> None:
        """Go on with those rows, in that order."""


class RowCache(Cache):
    """Keys and values that are written in place. Each row stands at a place of its own, so that rows join and leave
    while others are decoded, and attention reads what is filled, without a copy.

    Every layer's keys and values are (rows, heads, capacity, width). The capacity grows as the longest row does.
    """

    joins, drop_share = True, 0.0

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []  # tokens of each row
        self.stored: list[list[Tensor]] = []  # of each layer its keys and values
        self.place = torch.zeros(0)  # (B,) where this step's keys and values go

    def add(self, prompts: Cache, mask: Tensor, copies: Sequence[int]) -> None:
        """See `Rows.add`."""
        layers: list[Any] = prompts.layers
        read = [[layer.keys, layer.values] for layer in layers]
        if not self.stored:
            self.stored = [[x.new_empty(0, x.shape[1], 0, x.shape[3], dtype=_dtype(x)) for x in pair] for pair in read]
        sizes, first = mask.sum(-1).tolist(), len(self.lengths)
        self.lengths += [size for size, n in zip(sizes, copies, strict=True) for _ in range(n)]
        self._reserve(max(self.lengths) + 1)
        for i, (size, n) in enumerate(zip(sizes, copies, strict=True)):
            for stored, new in zip(_flat(self.stored), _flat(read), strict=True):
                stored[first : first + n, :, :size] = new[i, :, new.shape[2] - size :]
            first += n

    def next_inputs(self) -> dict[str, Any]:
        """See `Rows.next_inputs`."""
        longest = max(self.lengths)
        self._reserve(longest + 1)
        like = self.stored[0][0]
        self.place = torch.tensor(self.lengths, device=like.device)
        self.lengths = [length + 1 for length in self.lengths]
        hidden = torch.arange(longest + 1, device=like.device) > self.place[:, None]
        mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
        mask = mask.masked_fill_(hidden, torch.finfo(like.dtype).min)[:, None, None]
        return {"attention_mask": mask, "position_ids": self.place[:, None], "past_key_values": self}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values (B, heads, 1, width); all that are filled (B, heads, T, width)."""
        rows, filled = len(self.lengths), max(self.lengths)
        _, heads, capacity, _ = self.stored[layer_idx][0].shape
        line = torch.arange(rows * heads, device=self.place.device) * capacity + self.place.repeat_interleave(heads)
        for stored, new in zip(self.stored[layer_idx], (key_states, value_states), strict=True):
            width = stored.shape[-1]
            stored.view(-1, width).index_copy_(0, line, new.reshape(-1, width).to(stored.dtype))
        keys, values = (stored[:rows, :, :filled] for stored in self.stored[layer_idx])
        return keys, values

    def keep(self, order: Sequence[int]) -> None:
        """See `Rows.keep`. Only rows whose place changes are copied."""
        moved = [i for i, row in enumerate(order) if row != i]
        if moved:
            for stored in _flat(self.stored):
                filled = stored[:, :, : max(self.lengths)]
                filled[moved] = filled[[order[i] for i in moved]]
        self.lengths = [self.lengths[row] for row in order]

    def _reserve(self, length: int) -> None:
        """Make room for all rows at that length. What has left the batch by then is not copied."""
        rows, capacity = self.stored[0][0].shape[0], self.stored[0][0].shape[2]
        if len(self.lengths) <= rows and length <= capacity:
            return
        if length > capacity:
            capacity = max(length, capacity + max(GROWTH, capacity // 4))
        for layer in self.stored:
            for i, old in enumerate(layer):
                layer[i] = old.new_zeros(  # what is masked must be finite
                    len(self.lengths), old.shape[1], capacity, old.shape[3]
                )
                kept = min(len(old), len(self.lengths))
                layer[i][:kept, :, : old.shape[2]] = old[:kept]


class OwnCache:
    """The model's own cache, of whatever kind: recurrent states, sliding windows. Its rows stand at one place, padded
    on the left, and it is copied as it grows."""

    joins, drop_share = False, 1 / 8  # dropping copies the cache

    def add(self, prompts: Cache, mask: Tensor, copies: Sequence[int]) -> None:
        """See `Rows.add`; there are no others."""
        rows = torch.arange(len(mask)).repeat_interleave(torch.tensor(copies)).to(mask.device)
        prompts.reorder_cache(
            cast(torch.LongTensor, rows)
        )  # the one selection that every layer has, recurrent ones too
        self.cache, self.mask = prompts, mask[rows]
        self.place = self.mask.sum(-1, keepdim=True)

    def next_inputs(self) -> dict[str, Any]:
        """See `Rows.next_inputs`."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.place)], 1)
        self.place = self.place + 1
        return {"attention_mask": self.mask, "position_ids": self.place - 1, "past_key_values": self.cache}

    def keep(self, order: Sequence[int]) -> None:
        """See `Rows.keep`."""
        rows = torch.tensor(order, dtype=torch.long, device=self.mask.device)
        self.cache.reorder_cache(cast(torch.LongTensor, rows))
        self.mask, self.place = self.mask[rows], self.place[rows]


def rows_of(causal_lm: Any, prompts: Cache) -> Rows:
    """The rows of this model, whose own cache of some prompts is given: `RowCache` where every layer is one of plain
    attention and the model takes a prepared mask, as those do that transformers compiles whole."""
    plain = bool(prompts.layers) and all(type(layer) is DynamicLayer for layer in prompts.layers)
    prepared = causal_lm._can_compile_fullgraph and causal_lm._supports_attention_backend
    taken = causal_lm.config._attn_implementation in ("eager", "sdpa", CPU_DECODING)
    return RowCache() if plain and prepared and taken else OwnCache()


def _dtype(x: Tensor) -> torch.dtype:
    """What attention computes in: under autocast a cache of its precision is what each step would cast it to."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _flat(pairs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [x for pair in pairs for x in pair]
