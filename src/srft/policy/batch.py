"""Prompt-response pairs cut into micro-batches by a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """A prompt and one response, as tokens; `row` is the response's row in the step's table."""

    prompt: Sequence[int]
    response: Sequence[int]
    row: int

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class MicroBatch:
    """Padded on the right: input_ids, attention_mask, is_response (B, L); row (N,) of each response token."""

    input_ids: Tensor
    attention_mask: Tensor
    is_response: Tensor
    row: Tensor

    def to(self, device: torch.device | str) -> MicroBatch:
        return MicroBatch(*(x.to(device) for x in vars(self).values()))


def cut(pairs: Sequence[Pair], tokens: int, pad_token_id: int) -> list[MicroBatch]:
    """Micro-batches of at most `tokens` padded tokens (a longer pair goes alone), alike lengths together; for no pairs
    one without response tokens, so that a rank without work still takes part in the backward pass."""
    batches: list[list[Pair]] = []
    for pair in sorted(pairs, key=lambda p: (-len(p), p.row)):
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0]) > tokens:
            batches.append([])
        batches[-1].append(pair)
    return [pad(batch, pad_token_id) for batch in batches or [[Pair((pad_token_id, pad_token_id), (), 0)]]]


def pad(pairs: Sequence[Pair], pad_token_id: int) -> MicroBatch:
    longest = max(map(len, pairs))
    input_ids = torch.full((len(pairs), longest), pad_token_id)
    attention_mask = torch.zeros((len(pairs), longest), dtype=torch.long)
    is_response = torch.zeros((len(pairs), longest), dtype=torch.bool)
    for i, pair in enumerate(pairs):
        input_ids[i, : len(pair)] = torch.tensor([*pair.prompt, *pair.response])
        attention_mask[i, : len(pair)] = 1
        is_response[i, len(pair.prompt) : len(pair)] = True
    row = torch.repeat_interleave(torch.tensor([p.row for p in pairs]), torch.tensor([len(p.response) for p in pairs]))
    return MicroBatch(input_ids, attention_mask, is_response, row)
