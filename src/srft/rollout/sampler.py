"""What a sampler is asked and what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from srft.policy.forward import Policy
from srft.policy.load import ModelSettings
from srft.section import Section


class SamplingParams(Section):
    """How responses are drawn."""

    n: int = Field(8, gt=0, description="responses per prompt (SRFT App. B: 8)")
    temperature: float = Field(1.0, ge=0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 is the whole distribution")
    max_response_length: int = Field(8192, gt=0, description="tokens (SRFT App. B: 8192)")


@dataclass(frozen=True)
class SampleRequest:
    """A prompt to answer.

    Args:
        prompt_ids: token ids, e.g. (5, 17, 3).
        seed: what is drawn depends on it and on a response's place in the group alone; any 63-bit integer.
    """

    prompt_ids: Sequence[int]
    seed: int


@dataclass(frozen=True)
class Sample:
    """One response.

    Args:
        token_ids: its tokens, the stop token included when it ended by itself, e.g. [8, 2].
        logprobs: log-probability of each (nats) in the distribution sampled from (temperature applied, before top-p);
            nan where the sampler cannot tell; e.g. [-0.1, -2.3].
        truncated: True where it was cut at the limit and did not end with a stop token.
    """

    token_ids: list[int]
    logprobs: list[float]
    truncated: bool


@dataclass(frozen=True)
class SamplerContext:
    """What a sampler is built from.

    Args:
        policy: the live policy.
        model: where the policy's config comes from; an engine of its own is built from the same.
        stop_token_ids: any of these ends a response and is kept in it.
        pad_token_id: fills what is not read.
        max_model_len: tokens of a prompt and its response together, at most.
        max_batch: responses decoded together; None: the sampler's own choice.
        options: the backend's own, of its class `Options`; None where it has none.
    """

    policy: Policy
    model: ModelSettings
    stop_token_ids: set[int]
    pad_token_id: int
    max_model_len: int
    max_batch: int | None = None
    options: Any = None


def no_progress(count: int) -> None:
    """Show nothing."""


class Sampler(ABC):
    """Draws responses of a policy. A backend is a subclass in a file of `rollout/samplers/`.

    Attributes:
        name: the word in a recipe, `rollout.engine`.
        is_policy: it computes with the policy's own network, so that no correction is due.
        Options: its own settings, the recipe's `rollout.NAME`; None where it has none.
        progress: called while it samples, with the number of responses that are done since the last call.
    """

    name: ClassVar[str]
    is_policy: ClassVar[bool] = False
    Options: ClassVar[type[Section] | None] = None
    progress: Callable[[int], None] = staticmethod(no_progress)

    @classmethod  # noqa: B027
    def check(cls, options: Any, model: ModelSettings | None) -> None:
        """Raises SrftError where it cannot run here with these options, or not for this model (None: any)."""

    @classmethod
    def is_preferred(cls) -> bool:
        """Whether `engine: auto` takes it here, where several can run."""
        return False

    @classmethod
    @abstractmethod
    def build(cls, context: SamplerContext) -> Sampler:
        """A sampler of the policy as it is."""

    @abstractmethod
    def sample(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[list[Sample]]:
        """`params.n` samples of each request, in order. What is drawn for a request does not depend on the others, so
        that any number of processes draw the same."""

    @abstractmethod
    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the policy's present weights, by name."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds; it samples no more."""
