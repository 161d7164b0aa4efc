"""Prompting strategies: what the policy is asked for a prompt's group. A strategy is one file of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from srft.data.problem import Problem
from srft.data.template import Template
from srft.data.tokenize import Prompt
from srft.discover import discover
from srft.section import Section


@dataclass(frozen=True)
class PromptingContext:
    """What a strategy may build on.

    Args:
        problems: to train on.
        tokenizer: the policy's.
        template: of the prompts.
        max_prompt_length: tokens of a prompt, at most; `max_response_length` of a response.
        steps: of the stage.
        seed: the run's.
    """

    problems: Sequence[Problem]
    tokenizer: Any
    template: Template
    max_prompt_length: int
    max_response_length: int
    steps: int
    seed: int


@dataclass(frozen=True)
class Variant:
    """A prompt that `n` rollouts of a group answer, e.g. the plain one by 4 and the guided one by 4 of 8."""

    prompt: Prompt
    n: int


@dataclass(frozen=True)
class AskedGroup:
    """What a group is asked.

    Args:
        prompt: whose demonstrations the step learns from.
        variants: what the rollouts answer; their n add up to the group's.
    """

    prompt: Prompt
    variants: Sequence[Variant]


class Prompting:
    """A strategy; this one asks the prompt as it is.

    Attributes:
        name: the word in a recipe, `rollout.prompting.strategy`.
        reads_demonstrations: whether it needs the data's demonstrations.
        Options: its settings, which name the strategy as a literal.
    """

    name: ClassVar[str] = "plain"
    reads_demonstrations: ClassVar[bool] = False

    class Options(Section):
        """The prompt as it is."""

        strategy: Literal["plain"] = "plain"

    def __init__(self, options: Any = None, context: PromptingContext | None = None) -> None:
        """Raises SrftError where the options or the problems will not do."""

    @property
    def extra_tokens(self) -> int:
        """Tokens by which a prompt may grow, at most."""
        return 0

    def ask(self, prompt: Prompt, n: int, step: int, group_id: int) -> AskedGroup:
        """What `n` rollouts of the group answer in this step of the stage, from 1."""
        return AskedGroup(prompt, [Variant(prompt, n)])


def strategies() -> dict[str, type[Prompting]]:
    """The strategies by name."""
    known: list[type[Prompting]] = [Prompting, *discover(__name__, Prompting)]
    return {cls.name: cls for cls in known}
