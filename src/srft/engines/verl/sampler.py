"""verl's servers as a sampler."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from math import nan
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

from torch import Tensor

from srft.rollout.sampler import Sample, Sampler, SamplerContext, SampleRequest, SamplingParams
from srft.seed import derive_seed

if TYPE_CHECKING:
    from srft.engines.verl.cluster import Cluster


class VerlSampler(Sampler):
    """Samples by verl's servers, every response a request of its own, spread over all of them.

    Args:
        stop_token_ids: any of these ends a response and is kept in it.
    """

    name: ClassVar[str] = "verl"

    def __init__(self, cluster: Cluster, stop_token_ids: set[int]) -> None:
        self.cluster, self.stop_token_ids = cluster, sorted(stop_token_ids)

    @classmethod
    def build(cls, context: SamplerContext) -> Sampler:
        """Not of a policy in this process."""
        raise NotImplementedError

    def sample(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[list[Sample]]:
        """See `Sampler.sample`. With `top_p` below 1 log-probs are nan: the engine has them after the cut alone."""
        if not self.cluster.awake:
            self.cluster.wake()
        return asyncio.run(self._groups(requests, params))

    async def _groups(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[list[Sample]]:
        client = self.cluster.get_llm_client()
        copies, n = (params.n, 1) if params.temperature == 0 else (1, params.n)

        async def draw(request: SampleRequest, k: int) -> Sample:
            output = await client.generate(
                request_id=uuid4().hex,
                prompt_ids=list(request.prompt_ids),
                sampling_params={
                    "seed": derive_seed(request.seed, k) % 2**31,
                    "temperature": params.temperature,
                    "top_p": params.top_p,
                    "max_tokens": params.max_response_length,
                    "stop_token_ids": self.stop_token_ids,
                    "ignore_eos": True,  # what ends a response is said by stop_token_ids alone
                    "logprobs": True,
                    "detokenize": False,
                },
            )
            self.progress(1)
            return self._sample(output, known=params.top_p == 1)

        drawn = await asyncio.gather(*(draw(request, k) for request in requests for k in range(n)))
        return [drawn[i * n : (i + 1) * n] * copies for i in range(len(requests))]

    def _sample(self, output: Any, known: bool) -> Sample:
        ids = list(output.token_ids)
        logprobs = list(output.log_probs) if known else [nan] * len(ids)
        return Sample(ids, logprobs, truncated=not ids or ids[-1] not in self.stop_token_ids)

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """The workers hand them over themselves: see `ShardedPolicy.sync`."""

    def close(self) -> None:
        """End the servers, and the workers with them."""
        self.cluster.close()
