"""What a grader is given and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

LARGEST_REWARD = 1e6  # the absolute value of what a function may give, and of its weight


class Verdict(StrEnum):
    """Outcome of grading one response.

    RIGHT: it gives the gold answer, or its reward is `verify.right_at` or more. WRONG: it gives another, or its reward
    is less. UNPARSABLE: no answer can be read from it, or the answer is refused as too large. TIMEOUT: grading exceeded
    its time or memory.
    """

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Grade:
    """A verdict and its reward.

    Args:
        reward: a grader's is 1 for RIGHT and 0 for the other verdicts, a task's own scorer may give partial credit;
            with functions the weighted sum of `rewards`, 0 where none of them applies.
        details: what else the grader says of the response, by name.
        rewards: by name what each reward gave, None where it does not apply; empty where a grader alone scores.
        failure: of TIMEOUT, what happened, e.g. "it did not return within 5 s"; else "".
    """

    verdict: Verdict
    reward: float
    details: Mapping[str, Any] = field(default_factory=dict)
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    failure: str = ""


RIGHT = Grade(Verdict.RIGHT, 1.0)
WRONG = Grade(Verdict.WRONG, 0.0)
UNPARSABLE = Grade(Verdict.UNPARSABLE, 0.0)


def not_graded(failure: str) -> Grade:
    """TIMEOUT, and what happened."""
    return Grade(Verdict.TIMEOUT, 0.0, failure=failure)


@dataclass(frozen=True)
class Request:
    """One response to grade.

    Args:
        grader: the grader's name.
        answer: the gold answer.
        response: the response's text, with the `<think>` that its prompt opened, if it did.
        prompt: the problem's prompt, text or messages; only a user's function gets it.
        source: the problem's data set; only a user's function gets it.
        metadata: the problem's, for graders that declare that they need it and for a user's function.
    """

    grader: str
    answer: str
    response: str
    prompt: Any = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
