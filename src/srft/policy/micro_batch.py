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
        before: (N,) where among the B·L is the position before each response token, which predicts it, e.g. [1, 2, 4].
        place: (B, L) each position's place among the T distinct tokens, of which a prompt that several inputs share has
            but one set; any for padding, e.g. [[0, 1, 2, 3], [4, 5, 0, 0]].
        token: (T,) where each distinct token is first among the B·L, e.g. [0, 1, 2, 3, 4, 5].
        row: (N,) the row in the update's table of each response token, e.g. [4, 4, 7].
        temperature: (N,) of each response token's distribution, e.g. [0.6, 0.6, 1.0].
        sampler_logprobs: (N,) the sampler's log-prob of each response token (nats), nan where none sampled it, e.g.
            [-0.1, -2.3, nan].
    """

    input_ids: Tensor
    attention_mask: Tensor
    before: Tensor
    place: Tensor
    token: Tensor
    row: Tensor
    temperature: Tensor
    sampler_logprobs: Tensor

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same micro-batch on another device."""
        return MicroBatch(**{name: x.to(device) for name, x in vars(self).items()})


def make_micro_batches(
    inputs: Sequence[ModelInput], max_tokens: int, pad_token_id: int, packed: bool = False
) -> list[MicroBatch]:
    """Micro-batches of at most `max_tokens` tokens (a longer input goes alone); for no inputs one without response
    tokens, so that a rank without work still takes part in the backward pass.

    Args:
        packed: a prompt's tokens count once for all its responses, which are kept together, and padding does not count;
            else it does, and alike lengths are together.
    """
    groups: dict[tuple[int, ...] | int, list[ModelInput]] = {}
    for one in sorted(inputs, key=lambda x: (-len(x), x.row)):
        groups.setdefault(tuple(one.prompt_ids) if packed else 0, []).append(one)
    batches: list[list[ModelInput]] = []
    used, prompt = 0, None
    for one in (x for group in groups.values() for x in group):
        if packed:
            tokens = used + len(one.response_ids) + len(one.prompt_ids) * (tuple(one.prompt_ids) != prompt)
        else:
            tokens = (len(batches[-1]) + 1) * len(batches[-1][0]) if batches else 0
        if not batches or tokens > max_tokens:
            batches.append([])
            tokens = len(one)
        batches[-1].append(one)
        used, prompt = tokens, tuple(one.prompt_ids)
    return [pad(batch, pad_token_id) for batch in batches or [[ModelInput((pad_token_id, pad_token_id), (), 0)]]]


def pad(inputs: Sequence[ModelInput], pad_token_id: int) -> MicroBatch:
    """One micro-batch of all `inputs`."""
    longest = max(map(len, inputs))
    input_ids = torch.full((len(inputs), longest), pad_token_id)
    attention_mask = torch.zeros((len(inputs), longest), dtype=torch.long)
    place = torch.zeros((len(inputs), longest), dtype=torch.long)
    before, token = [], []
    prompts: dict[tuple[int, ...], Tensor] = {}  # the places of their tokens
    count = 0
    for i, one in enumerate(inputs):
        start, end, at = len(one.prompt_ids), len(one), i * longest
        input_ids[i, :end] = torch.tensor([*one.prompt_ids, *one.response_ids])
        attention_mask[i, :end] = 1
        shared = prompts.get(tuple(one.prompt_ids))
        first = 0 if shared is None else start  # of its own tokens
        place[i, first:end] = torch.arange(count, count + end - first)
        if shared is None:
            prompts[tuple(one.prompt_ids)] = place[i, :start]
        else:
            place[i, :start] = shared
        token.append(torch.arange(at + first, at + end))
        before.append(torch.arange(at + start - 1, at + end - 1))
        count += end - first
    lengths = torch.tensor([len(x.response_ids) for x in inputs])
    return MicroBatch(
        input_ids,
        attention_mask,
        torch.cat(before),
        place,
        torch.cat(token),
        row=torch.tensor([x.row for x in inputs]).repeat_interleave(lengths),
        temperature=torch.tensor([x.temperature for x in inputs], dtype=torch.float64).repeat_interleave(lengths),
        sampler_logprobs=torch.tensor(
            [p for x in inputs for p in x.sampler_logprobs or [NOT_SAMPLED] * len(x.response_ids)]
        ),
    )
