"""The sampler interface: prompts in, scored-to-be responses with their log-probs out; a backend is one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Sample:
    """One response.

    Args:
        token_ids: its tokens, the stop token included when it ended by itself.
        logprobs: log-probability of each under the distribution sampled from (temperature applied, before top-p).
        finished: True when it ended with a stop token, False when it was cut at the limit.
    """

    token_ids: list[int]
    logprobs: list[float]
    finished: bool


class Sampler(Protocol):
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
        """`n` samples of each prompt. `seeds` holds one integer a prompt: what is drawn for a prompt depends on its
        seed and slot alone, not on the rest of the batch, so that any number of processes draw the same.
        `temperature` 0 is greedy."""
        ...

    def update_weights(self) -> None:
        """Take over the policy's present weights."""
        ...

    def close(self) -> None:
        """Give back what it holds; it samples no more."""
        ...
