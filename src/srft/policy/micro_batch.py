"""Prompts and responses as model inputs, cut into micro-batches by a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NOT_SAMPLED = float("nan")  # the sampler's log-prob of a token that no sampler drew


@dataclass(frozen=True)
class ModelInput:
    """A prompt and one response to it, as tokens.

    Args:
        prompt_ids: token ids of the prompt, e.g. (5, 17, 3).
        response_ids: token ids of the response, e.g. (8, 2).
        row: the response's row in the update's table, from 0, e.g. 4.
        temperature: of the distribution that log π and H of the response are taken of, e.g. 1.0.
        sampler_logprobs: what the sampler said of each response token (nats), e.g. (-0.1, -2.3); None for what was not
            sampled.
    """

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    row: int
    temperature: float = 1.0
    sampler_logprobs: Sequence[float] | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class MicroBatch:
    """Model inputs padded on the right; B inputs of at most L tokens, N response tokens in all.

    Args:
        input_ids: (B, L) token ids, e.g. [[5, 17, 8, 2], [3, 8, 0, 0]].
        attention_mask: (B, L) 1 for a token, 0 for padding, e.g. [[1, 1, 1, 1], [1, 1, 0, 0]].
        is_response: (B, L) bool, e.g. [[F, F, T, T], [F, T, F, F]]: then N is 3.
        row: (N,) the row in the update's table of each response token, e.g. [4, 4, 7].
        temperature: (N,) of each response token's distribution, e.g. [0.6, 0.6, 1.0].
        sampler_logprobs: (N,) the sampler's log-prob of each response token (nats), nan where none sampled it, e.g.
            [-0.1, -2.3, nan].
    """

    input_ids: Tensor
    attention_mask: Tensor
    is_response: Tensor
    row: Tensor
    temperature: Tensor
    sampler_logprobs: Tensor

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same micro-batch on another device."""
        return MicroBatch(**{name: x.to(device) for name, x in vars(self).items()})


def make_micro_batches(inputs: Sequence[ModelInput], max_tokens: int, pad_token_id: int) -> list[MicroBatch]:
    """Micro-batches of at most `max_tokens` padded tokens (a longer input goes alone), alike lengths together; for no
    inputs one without response tokens, so that a rank without work still takes part in the backward pass."""
    batches: list[list[ModelInput]] = []
    for one in sorted(inputs, key=lambda x: (-len(x), x.row)):
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0]) > max_tokens:
            batches.append([])
        batches[-1].append(one)
    return [pad(batch, pad_token_id) for batch in batches or [[ModelInput((pad_token_id, pad_token_id), (), 0)]]]


def pad(inputs: Sequence[ModelInput], pad_token_id: int) -> MicroBatch:
    """One micro-batch of all `inputs`."""
    longest = max(map(len, inputs))
    input_ids = torch.full((len(inputs), longest), pad_token_id)
    attention_mask = torch.zeros((len(inputs), longest), dtype=torch.long)
    is_response = torch.zeros((len(inputs), longest), dtype=torch.bool)
    logprobs: list[float] = []
    for i, one in enumerate(inputs):
        input_ids[i, : len(one)] = torch.tensor([*one.prompt_ids, *one.response_ids])
        attention_mask[i, : len(one)] = 1
        is_response[i, len(one.prompt_ids) : len(one)] = True
        logprobs += one.sampler_logprobs or [NOT_SAMPLED] * len(one.response_ids)
    lengths = torch.tensor([len(x.response_ids) for x in inputs])
    row = torch.tensor([x.row for x in inputs]).repeat_interleave(lengths)
    temperature = torch.tensor([x.temperature for x in inputs], dtype=torch.float64).repeat_interleave(lengths)
    return MicroBatch(input_ids, attention_mask, is_response, row, temperature, torch.tensor(logprobs))
