"""Extracts the answer from a response's text, and reads plain numbers, which need no algebra to compare."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST_ANSWER = 2000  # characters of an answer; a longer one is refused

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?")
# Boxes with no more than this between them are one answer: \boxed{2} and \boxed{3}, x = \boxed{2}, y = \boxed{3}.
_SPACE = r"(?:\\[()\[\]]|[$\s]|\\q?quad|\\[,;!: ])*"
_NAME = r"(?:(?P<name>\\?[a-zA-Z]+(?:_(?:\w|\{\w+\}))?)\s*=\s*)?"
_JOINED = re.compile(
    rf"(?:{_SPACE}\.)?{_SPACE}"
    r"(?:,|;|，|、|and|or|,\s*and|,\s*or|或|和|\\text\s*\{\s*,?\s*(?:and|or|或|和)\s*\})"
    rf"{_SPACE}{_NAME}"
)
_NAMED = re.compile(rf"(?:^|[^\w\\]){_NAME}$")
# TeX's argument without braces: \boxed 7
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s*([+-]?\d+(?:[.,]\d+)*|(?<=[\s])[a-zA-Z](?![a-zA-Z]))")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*[ \t]*:?[ \t]*([^\n]{0,200})")
_BOLD_LABEL = re.compile(r"(?:the\s+)?(?:final\s+)?(?:answer|答案)(?:\s+is)?\s*[:：]?\s*", re.IGNORECASE)
_BETWEEN = 60  # characters
_MOST_BOXES = 20  # of one answer


@dataclass(frozen=True)
class _Box:
    content: str
    end: int  # index after its closing brace


def final_part(text: str) -> str | None:
    """The part of a response after its last </think>.

    Returns:
        all of the text when it has no <think>; None when it has one that is never closed.
    """
    return None if "<think>" in text and "</think>" not in text else text.rpartition("</think>")[2]


def answer_of(text: str) -> str | None:
    """The content of the last \\boxed{…} (or \\fbox{…}) of a response, after its last </think>.

    Boxes joined by no more than a comma, "and" or "or" are one answer of several parts, joined by commas, with the
    names before them where each has one. Where the only box is in the thought, what is last in bold after it counts.

    Returns:
        None when there is no closed box, when it is empty, or when a <think> is never closed.
    """
    final = final_part(text)
    if final is None:
        return None
    start = max(final.rfind("\\boxed"), final.rfind("\\fbox"))
    if start < 0:
        return _bold(final) if "\\boxed" in text else None
    last = _box(final, start)
    if last is None:
        return None
    parts, names, boxes = [last.content], list[str](), 1
    while boxes < _MOST_BOXES:
        before = max(final.rfind("\\boxed", 0, start), final.rfind("\\fbox", 0, start))
        box = _box(final, before, start)
        if box is None or start - box.end > _BETWEEN or not (joined := _JOINED.fullmatch(final, box.end, start)):
            break
        names.append(joined["name"] or "")
        parts.append(box.content)
        start, boxes = before, boxes + 1
    named = _NAMED.search(final[max(start - _BETWEEN, 0) : start])
    names.append((named["name"] if named else "") or "")
    if boxes > 1 and all(names) and len(set(names)) == boxes:
        parts = [f"{name}={part}" for name, part in zip(names, parts, strict=True)]
    return ", ".join(part for part, _ in itertools.groupby(reversed(parts))) or None


def last_box(text: str) -> str | None:
    """The content of the last \\boxed{…} (or \\fbox{…}) alone, after the last </think>; None as of `answer_of`."""
    final = final_part(text) or ""
    start = max(final.rfind("\\boxed"), final.rfind("\\fbox"))
    box = _braced_box(final, start, len(final))
    return box.content or None if box else None


def _bold(final: str) -> str | None:
    """The last text in bold, without a label such as "Answer:", or what follows such a label."""
    for bold in reversed(_BOLD.findall(final)):
        inside = _BOLD_LABEL.sub("", bold[0], count=1) if _BOLD_LABEL.match(bold[0]) else bold[0]
        answer = inside.strip() or bold[1].strip()
        if answer and not answer.endswith(":"):
            return str(answer)
    return None


def _box(text: str, start: int, stop: int | None = None) -> _Box | None:
    """The box that begins at `start`; None when there is none or it is not closed before `stop`."""
    end = len(text) if stop is None else stop
    if start >= 0 and (bare := _BARE_BOX.match(text, start, end)):
        return _Box(bare[1], bare.end())
    return _braced_box(text, start, end)


def _braced_box(text: str, start: int, end: int) -> _Box | None:
    match = re.compile(r"\\(?:boxed|fbox)\s*\{").match(text, start) if start >= 0 else None
    if match is None:
        return None
    depth = 0
    for i in range(match.end(), end):
        if text[i] in "{}" and text[i - 1] == "\\" and text[i - 2] != "\\":
            continue  # \{ stands for itself
        if text[i] == "{":
            depth += 1
        elif text[i] == "}":
            if depth == 0:
                return _Box(text[match.end() : i].strip(), i + 1)
            depth -= 1
    return None


def plain_number(text: str) -> Fraction | None:
    """The exact value of digits with an optional sign, commas every three digits and decimals; None for other text."""
    text = text.strip()
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else None
