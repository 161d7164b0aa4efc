"""The graders by name. Each takes a request (the problem's answer, the response's text, …) in a worker process and
gives verdict and score."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from srft.verify.answer import answer_of, final_part
from srft.verify.compare import grade_math
from srft.verify.limits import LONGEST
from srft.verify.oat import grade_oat

IN_PLACE = ("choice", "exact", "format")  # plain looks at the text, which need no worker
Grader = Callable[[Mapping[str, Any]], tuple[str, float]]

RIGHT, WRONG, UNPARSABLE = ("right", 1.0), ("wrong", 0.0), ("unparsable", 0.0)
_LETTER = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+|final\s+|best\s+)?(?:answer|option|choice)\s*(?:is|:)?\s*)?"
    r"(?:(?:option|choice)\s*)?[\[(\"'*_ ]*([A-Za-z])(?:[\])\"'*_ ]*[.):]?\s*|[\])\"'*_ ]*[.):]\s*\S.*)",
    re.DOTALL | re.IGNORECASE,
)
# Bounded repeats: the text may be long and hostile, and this one is searched for everywhere in it.
_LAST_LINE = re.compile(
    r"(?:answer|option|choice)\s{0,3}(?:is|:)\s{0,3}[*_]{0,3}\(?\s{0,3}([A-Z])\b(?!')", re.IGNORECASE
)
_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit|mathit|boldsymbol|rm|bf)\b\s*|[{}$\\]|\\[()\[\]]")
_TAG = re.compile(r"</?(?:think|answer)>")


def grade_choice(gold: str, text: str) -> tuple[str, float]:
    """The letter of a multiple choice: in the last \\boxed, else in the last "answer is …"; its words may follow it."""
    answer = answer_of(text)
    wanted, chosen = choice_letter(gold), choice_letter(answer) if answer is not None else None
    if answer is None and (said := _LAST_LINE.findall(final_part(text) or "")):
        chosen = said[-1].upper()
    if chosen is None:
        return UNPARSABLE
    return RIGHT if chosen == wanted else WRONG


def choice_letter(text: str) -> str | None:
    """A of "A", "(a)", "A.", "Option A", "\\\\text{A}", "A: Paris"; None for words without a letter before them."""
    plain = _MARKUP.sub("", text[:LONGEST]).strip()
    match = _LETTER.fullmatch(plain)
    return match[1].upper() if match else None


def grade_exact(gold: str, text: str) -> tuple[str, float]:
    """The answer's own characters, but for white space: the last \\boxed, else all that follows </think>."""
    final = final_part(text)
    if final is None:
        return UNPARSABLE
    answer = answer_of(text)
    given = (answer if answer is not None else final).split()
    return UNPARSABLE if not given else RIGHT if given == gold.split() else WRONG


def grade_format(text: str) -> tuple[str, float]:
    """Whether the tags are well-formed: <think>…</think>, then an answer that is not empty, which may be within one
    <answer>…</answer>; each tag once, and nothing before or between that does not belong."""
    tags = _TAG.findall(text)
    if tags not in (["<think>", "</think>"], ["<think>", "</think>", "<answer>", "</answer>"]):
        return WRONG
    before, thought, after, *rest = _TAG.split(text)
    if rest:  # what stands between </think> and <answer>, the answer, and what follows it
        well_formed = (
            not before.strip() and thought.strip() and not after.strip() and rest[0].strip() and not rest[1].strip()
        )
    else:
        well_formed = not before.strip() and thought.strip() and after.strip()
    return RIGHT if well_formed else WRONG


def grade_reasoning_gym(entry: Mapping[str, Any], text: str) -> tuple[str, float]:
    """The task's own scorer; it may give part of a point."""
    from reasoning_gym import get_score_answer_fn

    answer = answer_of(text) or text.rpartition("</think>")[2].strip()
    score = float(get_score_answer_fn(entry["metadata"]["source_dataset"])(answer=answer, entry=dict(entry)))
    return ("right" if score >= 1 - 1e-9 else "wrong"), score


def overlong_penalty(length: int, limit: int, buffer: int) -> float:
    """DAPO's soft overlong punishment, to be added to a reward: 0 up to `limit` − `buffer` tokens, then falling
    linearly to −1 at `limit`, and −1 beyond.

    Raises:
        ValueError: the buffer is not between 1 and the limit.
    """
    if not 0 < buffer <= limit:
        raise ValueError(f"the buffer must be between 1 and the limit {limit}, found {buffer}")
    return -min(max(length - (limit - buffer), 0) / buffer, 1.0)


def _boxed(grade: Callable[[str, str], tuple[str, float]]) -> Grader:
    def graded(request: Mapping[str, Any]) -> tuple[str, float]:
        answer = answer_of(request["text"])
        return UNPARSABLE if answer is None else grade(request["answer"], answer)

    return graded


GRADERS: dict[str, Grader] = {
    "math": _boxed(grade_math),
    "oat": _boxed(grade_oat),
    "choice": lambda request: grade_choice(request["answer"], request["text"]),
    "exact": lambda request: grade_exact(request["answer"], request["text"]),
    "format": lambda request: grade_format(request["text"]),
    "reasoning-gym": lambda request: grade_reasoning_gym(request["metadata"], request["text"]),
}
