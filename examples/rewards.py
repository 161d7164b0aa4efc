"""Reward functions of your own: `verify.rewards={grader: 1, examples/rewards.py:brevity: 0.2}`.

docs/rewards.md says what they are called with; tests/verify/test_rewards.py runs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any


def brevity(completions: Sequence[Any], **columns: Any) -> list[float]:
    """TRL's signature: one call with all responses of a step. 1 for an empty one, 0 from 400 characters on."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [max(0.0, 1 - len(text) / 400) for text in texts]


def shows_steps(completions: Sequence[Any], level: Sequence[int | None], **columns: Any) -> list[float | None]:
    """A column of the data set by its name; None where the reward does not apply: to problems below level 3."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [float("Step 2" in t) if n is not None and n >= 3 else None for t, n in zip(texts, level, strict=True)]


async def judged(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """Async: all responses of a step are judged at the same time. A real judge is a model behind a server."""
    return list(await asyncio.gather(*map(_ask_the_judge, prompts, completions)))


async def _ask_the_judge(prompt: Any, completion: Any) -> float:
    await asyncio.sleep(0)  # here goes: await client.post(…)
    return float("because" in str(completion))


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:
    """verl's signature: one response; `extra_info` is the row's column of that name, else the whole row."""
    return 1.0 if ground_truth in solution_str[-100:] else 0.0
