"""Rollouts by transformers itself, from the live policy: each prompt is read once for its whole group, rows that have
finished leave the batch, and prompts that wait take their places."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from srft.errors import SrftError
from srft.rollout.attention import decoding_attention
from srft.rollout.cache import Rows, rows_of
from srft.rollout.draw import draw, uniforms
from srft.rollout.sampler import Sample, Sampler, SamplerContext, SampleRequest, SamplingParams

LOOK_EVERY = 8  # steps between looks at who has finished, on a device that would have to wait for the answer


@dataclass(frozen=True)
class _Share:
    """Members of a request's group that are decoded together."""

    request: int
    members: range


@dataclass
class _Row:
    """A response on its way."""

    request: int
    member: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


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
        self.stop_token_ids = stop_token_ids

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
        drawn: dict[tuple[int, int], Sample] = {}
        waiting = deque(self._shares(requests, params.n))
        with _decoding(self.model) as causal_lm:
            batch = _Batch(causal_lm, requests, params, self.pad_token_id, self.stop_token_ids, self.max_batch)
            while waiting or batch.rows:
                finished = batch.drop_finished()
                for row in finished:
                    sample = Sample(row.token_ids, row.logprobs, truncated=not row.stopped)
                    drawn[row.request, row.member] = sample
                self.progress(len(finished))
                batch.admit(waiting)
                batch.advance()
        return [[drawn[i, member] for member in range(params.n)] for i in range(len(requests))]

    def _shares(self, requests: Sequence[SampleRequest], n: int) -> Iterator[_Share]:
        """Prompts of alike length one after the other; groups stay whole where they fit."""
        rows = min(n, self.max_batch)
        for i in sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids)):
            for first in range(0, n, rows):
                yield _Share(i, range(first, min(first + rows, n)))


class _Batch:
    """The rows that are decoded together; row i of every tensor is that of `rows[i]`."""

    def __init__(
        self,
        causal_lm: Any,
        requests: Sequence[SampleRequest],
        params: SamplingParams,
        pad_token_id: int,
        stop_token_ids: set[int],
        max_batch: int,
    ) -> None:
        self.causal_lm, self.requests, self.params = causal_lm, requests, params
        self.pad_token_id, self.stop_token_ids, self.max_batch = pad_token_id, stop_token_ids, max_batch
        self.device: torch.device = causal_lm.device
        self.look_every = 1 if self.device.type == "cpu" else LOOK_EVERY
        self.rows: list[_Row] = []
        self.cache: Rows | None = None
        self.token = torch.zeros(0, dtype=torch.long, device=self.device)  # (B,) the last one of each row
        self.uniform = torch.zeros(0, params.max_response_length, dtype=torch.float64, device=self.device)

    def admit(self, waiting: deque[_Share]) -> None:
        """Read the prompts for which there is room, and draw their rows' first tokens."""
        if self.cache is not None and not self.cache.joins:
            return
        shares, room = [], self.max_batch - len(self.rows)
        while waiting and len(waiting[0].members) <= room:
            shares.append(waiting.popleft())
            room -= len(shares[-1].members)
        if not shares:
            return
        prompts, copies = [self.requests[s.request].prompt_ids for s in shares], [len(s.members) for s in shares]
        longest = max(map(len, prompts))
        ids = torch.tensor([[self.pad_token_id] * (longest - len(p)) + list(p) for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self.causal_lm(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        if self.cache is None:
            self.cache = rows_of(self.causal_lm, out.past_key_values)
        self.cache.add(out.past_key_values, mask, copies)
        rows = [_Row(share.request, member) for share in shares for member in share.members]
        seeds = [(self.requests[row.request].seed, row.member) for row in rows]
        numbers = torch.stack([uniforms(*seed, self.params.max_response_length) for seed in seeds]).to(self.device)
        logits = out.logits[:, -1].repeat_interleave(torch.tensor(copies, device=self.device), 0)
        token, logp = draw(logits, numbers[:, 0], self.params.temperature, self.params.top_p)
        self._record(rows, token[:, None], logp[:, None])
        self.rows += rows
        self.token, self.uniform = torch.cat([self.token, token]), torch.cat([self.uniform, numbers])

    def drop_finished(self) -> list[_Row]:
        """Take out the rows that have ended or are full, once they are enough."""
        running = [not self._finished(row) for row in self.rows]
        if self.cache is None or all(running) or running.count(False) < self.cache.drop_share * len(running):
            return []
        finished = [row for row, runs in zip(self.rows, running, strict=True) if not runs]
        if len(finished) == len(running):
            self.rows, self.cache, self.token, self.uniform = [], None, self.token[:0], self.uniform[:0]
            return finished
        order = _closed_up(running)
        self.cache.keep(order)
        self.rows, self.token, self.uniform = [self.rows[i] for i in order], self.token[order], self.uniform[order]
        return finished

    def advance(self) -> None:
        """Draw each row's next tokens, until it is time to look who has finished."""
        left = [self.params.max_response_length - len(row.token_ids) for row in self.rows if not self._finished(row)]
        if self.cache is None or not left:
            return
        drawn = []
        for i in range(min(self.look_every, *left)):
            out = self.causal_lm(input_ids=self.token[:, None], use_cache=True, **self.cache.next_inputs())
            steps = [min(len(row.token_ids) + i, self.uniform.shape[1] - 1) for row in self.rows]
            uniform = self.uniform.gather(1, torch.tensor(steps, device=self.device)[:, None])[:, 0]
            drawn.append(draw(out.logits[:, -1], uniform, self.params.temperature, self.params.top_p))
            self.token = drawn[-1][0]
        tokens, logps = (torch.stack(values, 1) for values in zip(*drawn, strict=True))
        self._record(self.rows, tokens, logps)

    def _record(self, rows: Sequence[_Row], tokens: Tensor, logps: Tensor) -> None:
        """Add what was drawn (B, steps) to its rows, of each up to its first stop token and with it.

        Raises:
            SrftError: the model gave NaN or infinite logits.
        """
        if logps.isnan().any():
            raise SrftError(
                "the model's logits are NaN or infinite: there is nothing to sample from",
                where="rollout.engine: transformers",
                fix="Its training diverged, or it overflows in this precision: continue from the last checkpoint with "
                "a lower optim.lr, or set training.precision: fp32.",
            )
        for row, ids, values in zip(rows, tokens.tolist(), logps.tolist(), strict=True):
            if row.stopped:
                continue
            size = next((i + 1 for i, token in enumerate(ids) if token in self.stop_token_ids), None)
            row.stopped = size is not None
            row.token_ids += ids[:size]
            row.logprobs += values[:size]

    def _finished(self, row: _Row) -> bool:
        return row.stopped or len(row.token_ids) == self.params.max_response_length


def _closed_up(running: Sequence[bool]) -> list[int]:
    """The rows that go on, the last of them in the gaps that others leave, so that few change their place."""
    alive = [i for i, runs in enumerate(running) if runs]
    order = list(range(len(alive)))
    gaps = [i for i in order if not running[i]]
    for gap, row in zip(gaps, alive[len(alive) - len(gaps) :], strict=True):
        order[gap] = row
    return order


@contextmanager
def _decoding(model: Any) -> Iterator[Any]:
    """The causal LM of a model (of a peft model, with its LoRA layers), in evaluation mode for a while.

    Autocast keeps its casts of weights that ask for gradients alone: a frozen base would be cast at every token.
    """
    causal_lm = model.get_base_model() if hasattr(model, "peft_config") else model
    training = model.training
    frozen = [p for p in model.parameters() if not p.requires_grad and torch.is_autocast_enabled(p.device.type)]
    model.eval()
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with decoding_attention(causal_lm):
            yield causal_lm
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        model.train(training)
