"""A share of the rollouts has a thought pattern in the prompt (TAPO)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import ClassVar, Literal

from pydantic import Field

from srft.data.files import read_jsonl
from srft.data.problem import Problem
from srft.data.tokenize import Prompt, tokenize_problems
from srft.errors import SrftError
from srft.rollout.prompting import AskedGroup, Prompting, PromptingContext, Variant
from srft.section import Section

GUIDE = "\n\nA pattern of thought that may help:\n{}"  # what a guided prompt ends in


@dataclass(frozen=True)
class ThoughtPattern:
    """A pattern, and the number of conditions of the problems that it is for."""

    conditions: float
    text: str


class ThoughtPatterns(Prompting):
    """A share of the rollouts answers the prompt with a thought pattern added (TAPO, arXiv 2505.15692): the one whose
    number of conditions is nearest to the problem's."""

    name: ClassVar[str] = "thought-patterns"

    class Options(Section):
        """A share of the rollouts has a thought pattern in the prompt (TAPO)."""

        strategy: Literal["thought-patterns"] = "thought-patterns"
        share: float = Field(0.5, gt=0, le=1, description="of a group's rollouts; ours, as TAPO publishes none")
        library: str | None = Field(
            None, description="JSONL of conditions and pattern; from the demonstrations if left out"
        )

    def __init__(self, options: Options, context: PromptingContext) -> None:
        self.options, self.context = options, context
        library = options.library
        self.patterns = read_patterns(library) if library else patterns_of(context.problems)
        if not self.patterns:
            raise SrftError(
                "there is no demonstration to take a thought pattern from",
                where="rollout.prompting",
                fix="Name a library of patterns (rollout.prompting.library), or give data with demonstrations.",
            )

    @property
    def extra_tokens(self) -> int:
        """Of the longest pattern."""
        return max(len(self.context.tokenizer(GUIDE.format(p.text))["input_ids"]) for p in self.patterns)

    def ask(self, prompt: Prompt, n: int, step: int, group_id: int) -> AskedGroup:
        """The plain prompt first, then the guided one."""
        problem = replace(prompt.problem, prompt=self.guided(prompt.problem), demonstrations=())
        (guided,) = tokenize_problems(
            [problem],
            self.context.tokenizer,
            template=self.context.template,
            max_prompt_length=self.context.max_prompt_length + self.extra_tokens,
            max_response_length=1,
        ).prompts
        k = round(n * self.options.share)
        return AskedGroup(prompt, [Variant(p, m) for p, m in ((prompt, n - k), (guided, k)) if m])

    def guided(self, problem: Problem) -> str | tuple[Mapping[str, str], ...]:
        """The problem's prompt, followed by the nearest pattern."""
        count = count_conditions(problem)
        extra = GUIDE.format(min(self.patterns, key=lambda pattern: abs(pattern.conditions - count)).text)
        if isinstance(problem.prompt, str):
            return problem.prompt + extra
        *context, last = problem.prompt
        return (*context, {**last, "content": last["content"] + extra})


def count_conditions(problem: Problem) -> int:
    """How many conditions a problem states, taken as the numbers in it."""
    text = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"]
    return len(re.findall(r"\d+(?:\.\d+)?", text))


def patterns_of(problems: Sequence[Problem], longest: int = 600) -> list[ThoughtPattern]:
    """Thought patterns of prior samples: their demonstrations with every number blanked, like ones merged, at most
    `longest` characters of each; with the mean number of conditions of their problems."""
    conditions = defaultdict(list)
    for problem in problems:
        for demonstration in problem.demonstrations[:1]:
            pattern = re.sub(r"\d+(?:[.,]\d+)*", "_", demonstration)[:longest]
            conditions[pattern].append(count_conditions(problem))
    return [ThoughtPattern(fmean(counts), pattern) for pattern, counts in conditions.items()]


def read_patterns(path: str | Path) -> list[ThoughtPattern]:
    """A library of thought patterns: JSONL rows of `conditions` (a number) and `pattern` (text).

    Raises:
        SrftError: it cannot be read, or a row lacks a column.
    """
    name = f"rollout.prompting.library: {path}"
    patterns = []
    for where, row in read_jsonl(Path(path), name):
        try:
            patterns.append(ThoughtPattern(float(row["conditions"]), str(row["pattern"])))
        except (KeyError, TypeError, ValueError) as error:
            raise SrftError(
                f"not a row of a library of patterns: {type(error).__name__} {error}",
                where=where,
                fix='Write rows like {"conditions": 3, "pattern": "…"}.',
            ) from None
    return patterns
