"""The `verify` section of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from srft.errors import did_you_mean
from srft.section import Section
from srft.verify.graders import GRADERS

GRADER = "grader"  # among the rewards: the grader's verdict, 1 or 0


class VerifySettings(Section):
    """How responses are scored: by a grader, by functions of your own, or by a weighted sum of both."""

    workers: int | None = Field(None, gt=0, description="processes; as many as cores if left out, at most 8")
    timeout: float = Field(5.0, gt=0, description="seconds for one answer")
    grader: str | dict[str, str] | None = Field(
        None, description="in place of each problem's own: a name, or names by `data_source` or evaluation set"
    )
    extract: Literal["boxed", "last"] = Field(
        "boxed", description="which answer counts: the boxed one alone, or failing that the last one stated"
    )
    function: str | None = Field(
        None, description="path/to/file.py:name, scores in place of the grader: `rewards` of that one alone"
    )
    rewards: dict[str, float] = Field(
        {}, description="weights of what is summed: `grader`, and path/to/file.py:name (TRL's signature or verl's)"
    )
    function_timeout: float = Field(60.0, gt=0, description="seconds for a function's call with a step's responses")
    max_timeouts: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="share of responses without a verdict above which the run stops, of those graded together or of "
        "the last 32; null for never",
    )
    right_at: float | None = Field(
        None, description="the reward from which a response is right; if left out the grader's verdict, of functions 1"
    )
    check_answers: int = Field(
        1000, ge=0, description="how many ground truths, demonstrations and answers of a set are graded first"
    )

    @field_validator("grader")
    @classmethod
    def _known_graders(cls, given: str | dict[str, str] | None) -> str | dict[str, str] | None:
        for name in given.values() if isinstance(given, dict) else [given] if given else []:
            if name not in GRADERS:
                raise ValueError(f"no grader '{name}'. {did_you_mean(name, GRADERS)}")
        return given

    @model_validator(mode="after")
    def _one_of_two(self) -> VerifySettings:
        if self.function and self.rewards:
            raise ValueError("give one of `function` and `rewards`")
        return self

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each reward, by "grader" or the function."""
        return self.rewards or {self.function or GRADER: 1.0}

    def grader_of(self, source: str, own: str) -> str:
        """The grader of a problem.

        Args:
            source: the problem's data set, or the evaluation set that it is in.
            own: what it is graded by where the recipe names nothing for it.
        """
        return self.grader.get(source, own) if isinstance(self.grader, dict) else self.grader or own
