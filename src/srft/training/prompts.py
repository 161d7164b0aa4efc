"""Which prompts a step draws, and how the policy is asked: plainly, with a hint, with a thought pattern."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from srft.data import Problem, Prompt
from srft.errors import SrftError
from srft.seed import derive_seed

GUIDE = "\n\nA pattern of thought that may help:\n{}"  # what a guided prompt ends in
Ways = list[tuple[Prompt, int]]


def as_it_is(prompt: Prompt, n: int, step: int, slot: int) -> tuple[Prompt, Ways]:
    """A way of asking: the prompt whose demonstrations the step learns from, and what its n rollouts answer."""
    return prompt, [(prompt, n)]


Asking = Callable[[Prompt, int, int, int], tuple[Prompt, Ways]]


@dataclass(frozen=True)
class Hints:
    """Rollouts begin after the solution's first k of `chunks` chunks, k ~ Binomial(chunks, p), p a cosine from `start`
    to `end` over `steps` steps, then 0 (UFT). The hint is the step's demonstration.

    Args:
        tokenizer: to show the grader the hint before the response.
    """

    chunks: int
    start: float
    end: float
    steps: int
    tokenizer: Any
    seed: int

    def __call__(self, prompt: Prompt, n: int, step: int, slot: int) -> tuple[Prompt, Ways]:
        solution = prompt.demonstrations[0]
        hint = solution[: min(len(solution) * self.length(step, slot) // self.chunks, len(solution) - 1)]
        if not hint:
            return replace(prompt, demonstrations=(), truncated=()), [(prompt, n)]
        opening = prompt.opening + self.tokenizer.decode(hint, skip_special_tokens=True)
        hinted = replace(prompt, ids=(*prompt.ids, *hint), opening=opening)
        return replace(prompt, demonstrations=(hint,), truncated=(True,)), [(hinted, n)]

    def length(self, step: int, slot: int) -> int:
        """k of this prompt in this step, in chunks."""
        if step > self.steps:
            return 0
        p = self.end + 0.5 * (self.start - self.end) * (1 + math.cos(math.pi * step / self.steps))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, f"hint {step}", slot))
        return int((torch.rand(self.chunks, generator=generator) < p).sum())


@dataclass(frozen=True)
class Guidance:
    """A share of the rollouts answers the prompt with a thought pattern added (TAPO).

    Args:
        patterns: (number of conditions, pattern), as `find_patterns` or a library gives them.
        ask: a problem as the tokenised prompt.
    """

    share: float
    patterns: Sequence[tuple[float, str]]
    ask: Callable[[Problem], Prompt]

    def __call__(self, prompt: Prompt, n: int, step: int, slot: int) -> tuple[Prompt, Ways]:
        guided = self.ask(replace(prompt.problem, prompt=self.guided(prompt.problem), demonstrations=()))
        k = round(n * self.share)
        return prompt, [(p, m) for p, m in ((prompt, n - k), (guided, k)) if m]

    def guided(self, problem: Problem) -> Any:
        """The problem's prompt, followed by the pattern whose number of conditions is nearest."""
        have = conditions(problem)
        pattern = min(self.patterns, key=lambda known: abs(known[0] - have))[1]
        extra = GUIDE.format(pattern)
        if isinstance(problem.prompt, str):
            return problem.prompt + extra
        *context, last = problem.prompt
        return (*context, {**last, "content": last["content"] + extra})


def conditions(problem: Problem) -> int:
    """How many conditions a problem states, taken as the numbers in it."""
    text = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"]
    return len(re.findall(r"\d+(?:\.\d+)?", text))


def find_patterns(problems: Sequence[Problem], longest: int = 600) -> list[tuple[float, str]]:
    """Thought patterns of prior samples: their demonstrations with every number blanked, like ones merged, at most
    `longest` characters of each; with the mean number of conditions of their problems."""
    found = defaultdict(list)
    for problem in problems:
        for demonstration in problem.demonstrations[:1]:
            found[re.sub(r"\d+(?:[.,]\d+)*", "_", demonstration)[:longest]].append(conditions(problem))
    return [(fmean(counts), pattern) for pattern, counts in found.items()]


def read_patterns(path: str | Path) -> list[tuple[float, str]]:
    """A library of thought patterns: JSONL rows of `conditions` (a number) and `pattern` (text)."""
    try:
        rows = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
        return [(float(row["conditions"]), str(row["pattern"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SrftError(
            f"not a library of patterns: {type(error).__name__} {error}",
            where=f"rollout.guidance.library: {path}",
            fix='Give a JSONL file of rows like {"conditions": 3, "pattern": "…"}.',
        ) from None


def epoch_order(problems: int, seed: int, epoch: int) -> list[int]:
    """The shuffled order of an epoch."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(problems, generator=generator).tolist()


def draw(prompts: Sequence[Prompt], first: int, count: int, seed: int) -> list[Prompt]:
    """`count` prompts from place `first` on of a walk through shuffled epochs, so that any place can be had at once."""
    places = range(first, first + count)
    orders = {epoch: epoch_order(len(prompts), seed, epoch) for epoch in {p // len(prompts) for p in places}}
    return [prompts[orders[p // len(prompts)][p % len(prompts)]] for p in places]
