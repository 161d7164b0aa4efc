"""A graded response: the policy's own rollout, or an expert's demonstration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from srft.data.tokenize import Prompt
from srft.policy.micro_batch import ModelInput
from srft.verify.grade import Verdict


@dataclass(frozen=True)
class Group:
    """A prompt whose responses are compared with one another.

    Args:
        group_id: its place in the step, from 0; in an evaluation its number in the benchmark, e.g. 3.
        prompt: what is answered, e.g. "Add 2 to 3." as token ids.
    """

    group_id: int
    prompt: Prompt


@dataclass(frozen=True)
class Response:
    """One graded response.

    Args:
        group_id: of its `Group`, e.g. 3; the responses of one group are compared with one another.
        prompt: what it answers, e.g. with a hint at its end that other rollouts of the group do not have.
        token_ids: token ids, the stop token included where it ended by itself, e.g. (8, 2).
        is_demo: True for a demonstration, False for the policy's own rollout.
        truncated: True where it was cut at the length limit.
        text: the decoded tokens, e.g. "It is \\boxed{5}."
        reward: the grader's score, 1.0 for right, 0.0 for wrong; a user's functions may give e.g. 0.3.
        verdict: right, wrong, unparsable or timeout, e.g. Verdict.RIGHT.
        temperature: of the policy's distribution that it is scored under: a rollout's is the one that it was sampled
            at, e.g. 0.6, a demonstration's is 1.
        sampler_logprobs: the sampler's log-prob of each token (nats), e.g. (-0.1, -2.3); None for a demonstration.
        details: what else the grader said, by name, e.g. {"strict": 1.0} of IFEval.
        rewards: what each of several rewards gave, by name, None where it does not apply, e.g. {"grader": 1.0,
            "brevity": None}; empty where a grader alone scores.
    """

    group_id: int
    prompt: Prompt
    token_ids: Sequence[int]
    is_demo: bool
    truncated: bool
    text: str
    reward: float
    verdict: Verdict
    temperature: float = 1.0
    sampler_logprobs: Sequence[float] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    rewards: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def is_correct(self) -> bool:
        """Its verdict is right."""
        return self.verdict is Verdict.RIGHT

    @property
    def is_learnt(self) -> bool:
        """A demonstration, or a rollout that some reward applies to."""
        return self.is_demo or not self.rewards or any(reward is not None for reward in self.rewards.values())

    def model_input(self, row: int) -> ModelInput:
        """As the policy scores it; `row` is its row in the step's table."""
        return ModelInput(self.prompt.token_ids, self.token_ids, row, self.temperature, self.sampler_logprobs)

    def to_json(self) -> dict[str, Any]:
        """As it is saved in the run directory."""
        return {
            "prompt": self.prompt.problem.prompt,
            "answer": self.prompt.problem.answer,
            "response": self.text,
            "is_demo": self.is_demo,
            "reward": self.reward,
            "verdict": self.verdict.value,
            "tokens": len(self.token_ids),
            "truncated": self.truncated,
            **({"rewards": dict(self.rewards)} if self.rewards else {}),
        }
