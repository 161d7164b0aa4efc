"""Extracts the answer from a response's text, and reads plain numbers, which need no algebra to compare."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST_ANSWER = 2000  # characters of an answer; a longer one is refused

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?")
# Boxes with no more than this between them are one answer: \boxed{2} and \boxed{3}.
_JOINED = re.compile(
    r"(?:\\[()\[\]]|[$.\s]|\\q?quad|\\[,;!: ])*"
    r"(?:,|;|and|or|,\s*and|,\s*or|\\text\s*\{\s*,?\s*(?:and|or)\s*\})"
    r"(?:\\[()\[\]]|[$\s]|\\q?quad|\\[,;!: ])*"
)
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

    Boxes joined by no more than a comma, "and" or "or" are one answer of several parts, joined by commas.

    Returns:
        None when there is no closed box, when it is empty, or when a <think> is never closed.
    """
    final = final_part(text)
    if final is None:
        return None
    text = final
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    last = _box(text, start)
    if last is None:
        return None
    parts, boxes = [last.content], 1
    while boxes < _MOST_BOXES:
        before = max(text.rfind("\\boxed", 0, start), text.rfind("\\fbox", 0, start))
        box = _box(text, before, start)
        if box is None or start - box.end > _BETWEEN or not _JOINED.fullmatch(text, box.end, start):
            break
        if box.content != parts[-1]:
            parts.append(box.content)
        start, boxes = before, boxes + 1
    return ", ".join(reversed(parts)) or None


def _box(text: str, start: int, stop: int | None = None) -> _Box | None:
    """The box that begins at `start`; None when there is none or it is not closed before `stop`."""
    match = re.compile(r"\\(?:boxed|fbox)\s*\{").match(text, start) if start >= 0 else None
    if match is None:
        return None
    depth = 0
    for i in range(match.end(), len(text) if stop is None else stop):
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
