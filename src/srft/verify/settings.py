"""The `verify` section of a recipe."""

from __future__ import annotations

from pydantic import Field

from srft.section import Section


class VerifySettings(Section):
    """How answers are graded."""

    workers: int | None = Field(None, gt=0, description="processes; as many as cores if left out, at most 8")
    timeout: float = Field(5.0, gt=0, description="seconds for one answer")
    function: str | None = Field(
        None, description="path/to/file.py:name, a grader of your own (TRL's signature or verl's)"
    )
    check_answers: int = Field(1000, ge=0, description="how many ground truths must grade equal to themselves first")
