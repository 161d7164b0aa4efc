"""Before anything expensive: how many of the responses that should be right are graded so, and under which rule."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from srft.data.problem import Problem
from srft.errors import SrftError
from srft.verify.grade import Verdict
from srft.verify.grading import Items, needs_answer
from srft.verify.verifier import BadAnswer, Verifier

Item = TypeVar("Item")


@dataclass(frozen=True)
class Check:
    """How a sample of what should be right was graded.

    Args:
        what: e.g. "demonstrations".
        right: how many were.
        count: of the sample.
        rule: what graded them, e.g. "grader math, the boxed answer".
        advice: what would grade more of them right; "" where that is not known.
    """

    what: str
    right: int
    count: int
    rule: str
    advice: str = ""

    @property
    def is_poor(self) -> bool:
        """Less than half of them are right."""
        return 2 * self.right < self.count

    @property
    def line(self) -> str:
        """What is shown before a run."""
        told = f"{self.right} of {self.count} {self.what} grade right ({self.rule})"
        return f"Warning: only {told}. {self.advice}".rstrip() if self.is_poor else told


def check_demonstrations(
    verifier: Verifier, items: Items, cut: int, instruction: str, where: str, must: bool
) -> Check | None:
    """How many demonstrations the grader finds right; None where functions alone score.

    Args:
        items: problems with demonstrations as they are trained on, with the `<think>` that their prompts open.
        cut: how many of them end at the length limit.
        instruction: a prompt, which may ask for a boxed answer.
        where: the data, for the error.
        must: one must be right.

    Raises:
        SrftError: none is right.
    """
    items = [item for item in items if item[0].answer or not needs_answer(item[0])]
    if verifier.grader_weight is None or not items:
        return None
    grades = verifier.accuracy(items, verifier.extract)
    counts = Counter(grade.verdict for grade in grades)
    check = Check("demonstrations", counts[Verdict.RIGHT], len(items), _rule([p for p, _ in items], verifier.extract))
    if not check.is_poor:
        return check
    advice = _advice(verifier, items, cut, check.right, instruction)
    if must and not check.right:
        unread, late = counts[Verdict.UNPARSABLE], counts[Verdict.TIMEOUT]
        raise SrftError(
            f"none of {len(items)} demonstrations grades right ({check.rule}); in {unread} no answer can be read"
            + f", {late} were not graded in time" * bool(late),
            where=where,
            fix=f"{advice} Else correct the answers, or choose verify.grader, verify.extract or data.template.",
        )
    return Check(check.what, check.right, check.count, check.rule, advice)


def check_answers(
    verifier: Verifier, name: str, problems: Sequence[Problem], extract: str, most: int | None = None
) -> Check | None:
    """How many answers of an evaluation set grade as equal to themselves; None where nothing compares with them.

    Args:
        name: of the set.
        extract: which answer of a response counts there.
        most: of them are graded; None for all.

    Raises:
        SrftError: a problem has no answer, or none grades right.
    """
    if verifier.grader_weight is None:
        return None
    compared = [p for p in problems if needs_answer(p)]
    if missing := [p for p in compared if not p.answer]:
        raise SrftError(
            f"{len(missing)} of {len(problems)} problems have no answer to compare with, the first at "
            f"{missing[0].where}",
            where=f"evaluation {name}",
            fix="Give a column `answer`, leave these rows out, or score by what needs none: verify.grader: format, "
            "verify.function, or the loss of its demonstrations (`measure: loss` of an evaluation set).",
        )
    compared = spread(compared, len(compared) if most is None else most)
    if not compared:
        return None
    bad = verifier.self_check(compared)
    if len(bad) == len(compared):
        raise SrftError(
            f"no answer of '{name}' grades as equal to itself, {listed(bad[:1])} among them",
            where=f"evaluation {name}",
            fix=f"The grader '{bad[0].problem.grader}' is not for this set: choose verify.grader.",
        )
    return Check(f"answers of {name}", len(compared) - len(bad), len(compared), _rule(compared, extract))


def unasked_box(verifier: Verifier, problems: Sequence[Problem], instruction: str) -> str:
    """A line where only a boxed answer counts and the prompt, `instruction`, asks for none; else ""."""
    only_boxed = verifier.extract == "boxed" and any(p.grader in ("math", "oat") for p in problems)
    if verifier.grader_weight is None or not only_boxed or "\\boxed" in instruction:
        return ""
    return (
        "Warning: only an answer in \\boxed{} counts, and the prompt asks for none. data.template: qwen-math asks; "
        "verify.extract: last takes the last answer stated."
    )


def listed(bad: Sequence[BadAnswer]) -> str:
    """Where they are, what they are and, where they could not be graded, why."""
    return ", ".join(f"{b.problem.where}: {b.problem.answer!r}" + f" ({b.failure})" * bool(b.failure) for b in bad)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly from all."""
    return list(items[:: math.ceil(len(items) / most)]) if most and items else []


def _rule(problems: Sequence[Problem], extract: str) -> str:
    graders = ", ".join(sorted({p.grader for p in problems}))
    reads = "the boxed answer" if extract == "boxed" else "the boxed answer, else the last one stated"
    return f"grader {graders}, {reads}"


def _advice(verifier: Verifier, items: Items, cut: int, right: int, instruction: str) -> str:
    """What would grade more of the demonstrations right, tried on them."""
    if verifier.extract == "boxed":
        last = sum(grade.verdict is Verdict.RIGHT for grade in verifier.accuracy(items, "last"))
        if last > right:
            asked = "asks" if "\\boxed" in instruction else "does not ask"
            told = f"with verify.extract: last {last} of {len(items)} would be right"
            return f"The prompt {asked} for \\boxed{{}}; {told}."
    if 2 * cut >= len(items):
        return f"{cut} of them are cut before their end: raise rollout.max_response_length."
    if all("<think>" in text and "</think>" not in text for _, text in items):
        return (
            "The prompt opens <think> and none of them closes it: give demonstrations with </think>, or a template "
            "that opens none (data.template: qwen-math)."
        )
    return ""
