"""Rollouts by transformers itself, from the live policy: each prompt is read once for its whole group, and rows that
have finished leave the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from srft.rollout.sampler import Sample
from srft.seed import derive_seed

DROP_SHARE = 8  # finished rows leave the batch once they are an eighth of it: dropping copies the cache


class TransformersSampler:
    """Samples from a causal LM that may be in training at the same time.

    Args:
        model: a transformers causal LM with a cache.
        pad_token_id: fills what is not read.
        stop_token_ids: any of these ends a response and is kept in it.
        max_batch: rows decoded together; groups stay whole where they fit.
    """

    def __init__(self, model: Any, pad_token_id: int, stop_token_ids: set[int], max_batch: int = 256) -> None:
        self.model, self.pad_token_id, self.max_batch = model, pad_token_id, max_batch
        self.stop = torch.tensor(sorted(stop_token_ids), dtype=torch.long, device=model.device)

    def update_weights(self) -> None:
        """Nothing to do: it samples from the policy itself."""

    def close(self) -> None:
        """Nothing to do: it holds nothing of its own."""

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        n: int,
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[list[Sample]]:
        """See `Sampler.sample`. The draw of a row at a step is by inverse CDF from a uniform that its prompt's seed and
        its slot alone decide."""
        found: list[list[Sample]] = [[] for _ in prompts]
        training = self.model.training
        self.model.eval()
        try:
            for places, slots in self._batches(prompts, n):
                uniforms = torch.stack(
                    [_uniforms(seeds[place], slot, max_new_tokens) for place in places for slot in slots]
                ).to(self.model.device)
                rows = self._decode([prompts[p] for p in places], len(slots), uniforms, temperature, top_p)
                for i, row in enumerate(rows):
                    found[places[i // len(slots)]].append(row)
        finally:
            self.model.train(training)
        return found

    def _batches(self, prompts: Sequence[Sequence[int]], n: int) -> Iterator[tuple[list[int], range]]:
        """Prompts of alike length together, with the slots of their groups that are drawn."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        whole, rows = max(self.max_batch // n, 1), min(n, self.max_batch)
        for start in range(0, len(order), whole):
            for first in range(0, n, rows):
                yield order[start : start + whole], range(first, min(first + rows, n))

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
        cache, line = out.past_key_values, torch.arange(len(prompts), device=device).repeat_interleave(n)
        cache.reorder_cache(line)
        logits, mask = out.logits[line, -1], mask[line]
        position = mask.sum(-1, keepdim=True)

        rows, steps = uniforms.shape
        tokens = torch.full((rows, steps), self.pad_token_id, device=device)
        logps = torch.zeros((rows, steps), device=device)
        alive = torch.arange(rows, device=device)  # the row that each line of the batch is
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
        found = zip(tokens.tolist(), logps.tolist(), sizes.tolist(), stops.any(-1).tolist(), strict=True)
        return [Sample(ids[:size], values[:size], finished) for ids, values, size, finished in found]


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


def _uniforms(seed: int, slot: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, slot))
    return torch.rand(count, dtype=torch.float64, generator=generator)
