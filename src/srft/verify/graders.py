"""The graders by name. A new grader is one registered function in this file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from srft.verify.answer import LONGEST_ANSWER, answer_of, final_part, last_box, plain_number
from srft.verify.grade import RIGHT, UNPARSABLE, WRONG, Grade, Request, Verdict
from srft.verify.math import grade_math

GradeFunction = Callable[[Request], Grade]


@dataclass(frozen=True)
class Grader:
    """A grader and what it needs.

    Args:
        grade: the function; an error that it raises makes the response UNPARSABLE.
        isolated: it runs in a worker process under a deadline; else in the caller's, where it must be fast and must not
            raise, whatever the text.
        shortcut: decides easy responses of an isolated grader in the caller's process, with the grader's own verdict;
            None for a response that it leaves to the grader.
        uses_answer: it compares with the gold answer, rather than check the response's form.
        uses_metadata: it needs `Problem.metadata`.
        extra: the optional dependency of srft that it needs, named like its module but for "-" in place of "_"; "" for
            none.
    """

    grade: GradeFunction
    isolated: bool = True
    shortcut: Callable[[Request], Grade | None] | None = None
    uses_answer: bool = True
    uses_metadata: bool = False
    extra: str = ""


GRADERS: dict[str, Grader] = {}


def grader(
    name: str,
    *,
    isolated: bool = True,
    shortcut: Callable[[Request], Grade | None] | None = None,
    uses_answer: bool = True,
    uses_metadata: bool = False,
    extra: str = "",
) -> Callable[[GradeFunction], GradeFunction]:
    """A decorator that registers a function as the grader `name` and returns it; options as in `Grader`."""

    def register(function: GradeFunction) -> GradeFunction:
        GRADERS[name] = Grader(function, isolated, shortcut, uses_answer, uses_metadata, extra)
        return function

    return register


_LETTER = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+|final\s+|best\s+)?(?:answer|option|choice|答案|选项|选)\s*(?:is|是|为|选)?\s*[:：]?\s*)?"
    r"(?:(?:option|choice|选项|选)\s*)?[\[(\"'*_ ]*([A-Za-z])(?:[\])\"'*_ ]*[.):：。]?\s*|[\])\"'*_ ]*[.):：]\s*\S.*)",
    re.DOTALL | re.IGNORECASE,
)
# Bounded repeats: the text may be long and hostile, and these are searched for everywhere in it. A letter is a choice
# when no further choice follows ("A or B"), and one that is a word as well (a, I) only where no sentence goes on.
_CHOICE = (
    r"[*_]{0,3}\s{0,3}[(\[\"']?\s{0,3}(?P<letter>(?-i:[B-HJ-Z])|[b-hj-z](?=[\s*_\"']{0,3}(?:[.,:;)\]。，]|$|\n))"
    r"|(?-i:[AI])(?!\s+(?!as\b|because|since|is\b|for\b|which)[a-z])|[ai](?=[*_\"']{0,3}[.)\]:。*_]|\s*$))"
    r"(?![A-Za-z0-9']|[)\]]?\s{0,3}(?:or|and|,|/|或)\s{0,3}\(?[A-Za-z]\b)"
)
_ANSWER = re.compile(
    r"(?:answer|choice|答案|故选|应选|因此选|所以选)[*_]{0,3}\s{0,3}(?:is|=|是|为|选)?\s{0,3}[:：]?[*_]{0,3}\s{0,3}"
    rf"(?:option|choice|letter|选项)?\s{{0,3}}{_CHOICE}",
    re.IGNORECASE,
)
_OPTION = re.compile(
    rf"(?:option|选项|选)\s{{0,3}}(?:is|是|为)?\s{{0,3}}[:：]?\s{{0,3}}{_CHOICE}"
    r"(?![)*_\s]{0,3}(?:is|are|can|would|seems|does|cannot)?\s{0,3}(?:not|never|n't|wrong|incorrect|false|ruled|out))",
    re.IGNORECASE,
)
_LETTER_ALONE = re.compile(r"[\s*_(\[\"']*[A-Z][\s*_)\]\"'.:]*")
_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit|mathit|boldsymbol|rm|bf)\b\s*|[{}$\\]|\\[()\[\]]")
_TAG = re.compile(r"</?(?:think|answer)>")


def _without_algebra(request: Request, extract: Callable[[str], str | None] = answer_of) -> Grade | None:
    """The grade of a missing, identical or too long answer, or of two plain numbers; None for any other."""
    candidate = extract(request.response)
    if candidate is None:
        return UNPARSABLE
    if candidate == request.answer.strip():
        return RIGHT
    if len(candidate) > LONGEST_ANSWER:
        return UNPARSABLE
    gold, value = plain_number(request.answer), plain_number(candidate)
    if gold is None or value is None:
        return None
    return RIGHT if gold == value else WRONG


@grader("math", shortcut=_without_algebra)
def _math(request: Request) -> Grade:
    """The boxed answer by mathematical equivalence."""
    candidate = answer_of(request.response)
    return UNPARSABLE if candidate is None else grade_math(request.answer, candidate)


def _oat_without_algebra(request: Request) -> Grade | None:
    """As `_without_algebra`, but numbers that differ are left to the grader unless they have few digits, because OAT
    compares in floating point."""
    small = all(
        re.fullmatch(r"[+-]?[\d,]{1,12}(?:\.\d{1,5})?", text.strip())
        for text in (request.answer, last_box(request.response) or "")
    )
    decided = _without_algebra(request, last_box)
    return decided if decided != WRONG or small else None


@grader("oat", shortcut=_oat_without_algebra)
def _oat(request: Request) -> Grade:
    """The last boxed answer by the rules of the OAT grader."""
    candidate = last_box(request.response)
    return UNPARSABLE if candidate is None else grade_math(request.answer, candidate, rules="oat")


@grader("choice", isolated=False)
def _choice(request: Request) -> Grade:
    """The letter of a multiple choice: in the last \\boxed, else in the last "answer is …", else in the last
    "option …", else alone in the last line; its words may follow it."""
    candidate = answer_of(request.response)
    expected = choice_letter(request.answer)
    chosen = choice_letter(candidate) if candidate is not None else None
    if candidate is None:
        chosen = _stated(final_part(request.response) or "")
    if chosen is None:
        return UNPARSABLE
    return RIGHT if chosen == expected else WRONG


def _stated(text: str) -> str | None:
    """The letter of the last statement of the answer in words, or that is the last line; None when there is none."""
    plain = _MARKUP.sub("", text)
    for statement in (_ANSWER, _OPTION):
        if letters := [match["letter"] for match in statement.finditer(plain)]:
            return letters[-1].upper()
    line = plain.strip().rpartition("\n")[2]
    return choice_letter(line) if _LETTER_ALONE.fullmatch(line) or line == plain.strip() else None


def choice_letter(text: str) -> str | None:
    """A of "A", "(a)", "A.", "Option A", "\\text{A}", "A: Paris"; None for words without a letter before them."""
    plain = _MARKUP.sub("", text[:LONGEST_ANSWER]).strip()
    match = _LETTER.fullmatch(plain)
    return match[1].upper() if match else None


@grader("exact", isolated=False)
def _exact(request: Request) -> Grade:
    """The gold answer's own characters, but for white space: the last \\boxed, else all that follows </think>."""
    final = final_part(request.response)
    if final is None:
        return UNPARSABLE
    candidate = answer_of(request.response)
    words = (candidate if candidate is not None else final).split()
    return UNPARSABLE if not words else RIGHT if words == request.answer.split() else WRONG


@grader("format", isolated=False, uses_answer=False)
def _format(request: Request) -> Grade:
    """Whether the tags are well-formed: <think>…</think>, then an answer that is not empty, which may be within one
    <answer>…</answer>; each tag once, and nothing before or between that does not belong."""
    tags = _TAG.findall(request.response)
    if tags not in (["<think>", "</think>"], ["<think>", "</think>", "<answer>", "</answer>"]):
        return WRONG
    before, thought, after, *rest = _TAG.split(request.response)
    if rest:  # `after` is between </think> and <answer>; `rest` is the answer and what follows it
        well_formed = (
            not before.strip() and thought.strip() and not after.strip() and rest[0].strip() and not rest[1].strip()
        )
    else:
        well_formed = not before.strip() and thought.strip() and after.strip()
    return RIGHT if well_formed else WRONG


@grader("reasoning-gym", uses_metadata=True, extra="reasoning-gym")
def _reasoning_gym(request: Request) -> Grade:
    """The task's own scorer; it may give partial credit."""
    from reasoning_gym import get_score_answer_fn

    candidate = answer_of(request.response) or request.response.rpartition("</think>")[2].strip()
    entry = dict(request.metadata)
    reward = float(get_score_answer_fn(entry["metadata"]["source_dataset"])(answer=candidate, entry=entry))
    return Grade(Verdict.RIGHT if reward >= 1 - 1e-9 else Verdict.WRONG, reward)
