"""Mathematical equivalence of two answers, behind one function. Nothing else of this package is imported elsewhere."""

from __future__ import annotations

from typing import Literal

from srft.verify.grade import Grade
from srft.verify.math.compare import compare
from srft.verify.math.oat import compare_as_oat

__all__ = ["grade_math"]


def grade_math(gold: str, candidate: str, rules: Literal["srft", "oat"] = "srft") -> Grade:
    """Whether a candidate answer (without its \\boxed) is mathematically the gold answer.

    May hang or exhaust memory on a hostile candidate: call it in a worker process with a deadline.

    Args:
        gold: the right answer, as TeX or plain text.
        candidate: the answer to grade, as TeX or plain text.
        rules: "srft" for this project's comparison, "oat" for the decisions of the OAT grader.

    Returns:
        RIGHT, WRONG, or UNPARSABLE for a candidate that is no mathematics or is refused as too large.

    Raises:
        Exception: any error of the libraries that parse mathematics; the caller treats it as UNPARSABLE.
    """
    return compare_as_oat(gold, candidate) if rules == "oat" else compare(gold, candidate)
