"""Rollouts by transformers itself, from the live policy: each prompt is read once for its whole group, and rows that
have finished leave the batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from srft.rollout.sampler import Sample, Sampler, SamplerContext, SampleRequest, SamplingParams
from srft.seed import derive_seed

DROP_SHARE = 8  # finished rows leave the batch once they are an eighth of it: dropping copies the cache


@dataclass(frozen=True)
class _Batch:
    """Requests decoded together, by index, and which members of their groups."""

    indices: list[int]
    members: range


class TransformersSampler(Sampler):
    """Samples from a causal LM that may be in training at the same time.

    Args:
        model: a transformers causal LM with a cache.
        pad_token_id: fills what is not read.
        stop_token_ids: any of these ends a response and is kept in it.
        max_batch: rows decoded together; groups stay whole where they fit.
    """

    name: ClassVar[str] = "transformers"
    is_policy: ClassVar[bool] = True

    def __init__(self, model: Any, pad_token_id: int, stop_token_ids: set[int], max_batch: int = 256) -> None:
        self.model, self.pad_token_id, self.max_batch = model, pad_token_id, max_batch
        self.stop = torch.tensor(sorted(stop_token_ids), dtype=torch.long, device=model.device)

    @classmethod
    def build(cls, context: SamplerContext) -> TransformersSampler:
        """See `Sampler.build`."""
        return cls(context.policy.model, context.pad_token_id, context.stop_token_ids, context.max_batch or 256)

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Nothing to do: it samples from the policy itself."""

    def close(self) -> None:
        """Nothing to do: it holds nothing of its own."""

    @torch.no_grad()
    def sample(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[list[Sample]]:
        """See `Sampler.sample`. The draw of a response at a token is by inverse CDF from a uniform that its request's
        seed and its place in the group alone decide."""
        groups: list[list[Sample]] = [[] for _ in requests]
        training = self.model.training
        self.model.eval()
        try:
            for batch in self._batches(requests, params.n):
                uniforms = torch.stack(
                    [
                        _uniforms(requests[i].seed, member, params.max_response_length)
                        for i in batch.indices
                        for member in batch.members
                    ]
                ).to(self.model.device)
                prompts = [requests[i].prompt_ids for i in batch.indices]
                rows = self._decode(prompts, len(batch.members), uniforms, params.temperature, params.top_p)
                for row, sample in enumerate(rows):
                    groups[batch.indices[row // len(batch.members)]].append(sample)
        finally:
            self.model.train(training)
        return groups

    def _batches(self, requests: Sequence[SampleRequest], n: int) -> Iterator[_Batch]:
        """Prompts of alike length together; groups stay whole where they fit."""
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        whole, rows = max(self.max_batch // n, 1), min(n, self.max_batch)
        for start in range(0, len(order), whole):
            for first in range(0, n, rows):
                yield _Batch(order[start : start + whole], range(first, min(first + rows, n)))

    def _decode(
        self, prompts: Sequence[Sequence[int]], n: int, uniforms: Tensor, temperature: float, top_p: float
    ) -> list[Sample]:
        device, longest = self.model.device, max(map(len, prompts))
        ids = torch.tensor([[self.pad_token_id] * (longest - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
        # Each prompt was read once; now a copy of its cache for each of its rows. `reorder_cache` is the one selection
        # that every cache layer has, recurrent ones too.
        cache, copies = out.past_key_values, torch.arange(len(prompts), device=device).repeat_interleave(n)
        cache.reorder_cache(copies)
        logits, mask = out.logits[copies, -1], mask[copies]
        position = mask.sum(-1, keepdim=True)

        rows, steps = uniforms.shape
        tokens = torch.full((rows, steps), self.pad_token_id, device=device)
        logps = torch.zeros((rows, steps), device=device)
        alive = torch.arange(rows, device=device)  # the row that each place of the batch holds
        running = torch.ones_like(alive, dtype=torch.bool)
        for step in range(steps):
            token, logp = draw(logits, uniforms[alive, step], temperature, top_p)
            tokens[alive, step], logps[alive, step] = token, logp  # those after a stop token are cut off below
            running &= ~torch.isin(token, self.stop)
            left = int(running.sum())
            if left == 0 or step == steps - 1:
                break
            if (len(alive) - left) * DROP_SHARE >= len(alive):
                cache.reorder_cache(running.nonzero()[:, 0])
                alive, token, mask, position, running = (x[running] for x in (alive, token, mask, position, running))
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], 1)
            out = self.model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )
            logits, position = out.logits[:, -1], position + 1
        stops = torch.isin(tokens, self.stop).long()
        sizes = (stops.cumsum(-1) - stops == 0).sum(-1)  # up to the first stop token and with it
        ended = stops.any(-1).tolist()
        return [
            Sample(ids[:size], values[:size], truncated=not end)
            for ids, values, size, end in zip(tokens.tolist(), logps.tolist(), sizes.tolist(), ended, strict=True)
        ]


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """One token a row by inverse CDF, and its log-probability under the whole distribution at this temperature.

    logits (B, V); uniform (B,) in [0, 1), float64. Temperature 0 is the most probable token, with its log-probability
    at temperature 1.
    """
    logp = (logits.float() / (temperature or 1.0)).log_softmax(-1)
    if temperature == 0:
        token = logp.argmax(-1)
        return token, logp.gather(-1, token[:, None])[:, 0]
    prob = logp.exp().double()
    if top_p < 1:
        ordered, index = prob.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p  # the smallest set whose mass reaches top_p stays
        prob = prob.masked_fill(torch.zeros_like(outside).scatter(-1, index, outside), 0.0)
    mass = prob.cumsum(-1)
    token = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True).clamp(max=prob.shape[-1] - 1)
    # Should rounding of the sums lead past the last token of positive mass, the most probable one is taken.
    token = torch.where(prob.gather(-1, token) > 0, token, logp.argmax(-1, keepdim=True))
    return token[:, 0], logp.gather(-1, token)[:, 0]


def _uniforms(seed: int, member: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, member))
    return torch.rand(count, dtype=torch.float64, generator=generator)
