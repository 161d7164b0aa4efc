"""Where a response's answer stands, and the plain numbers that need no algebra to compare."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?")


# Boxes with no more than this between them are one answer: \boxed{2} and \boxed{3}.
_JOINED = re.compile(
    r"(?:\\[()\[\]]|[$.\s]|\\q?quad|\\[,;!: ])*"
    r"(?:,|;|and|or|,\s*and|,\s*or|\\text\s*\{\s*,?\s*(?:and|or)\s*\})"
    r"(?:\\[()\[\]]|[$\s]|\\q?quad|\\[,;!: ])*"
)
_BETWEEN = 60  # characters


def final_part(text: str) -> str | None:
    """What follows the last </think>, or all of it where nothing was thought; None where thinking never ended."""
    return None if "<think>" in text and "</think>" not in text else text.rpartition("</think>")[2]


def answer_of(text: str) -> str | None:
    """What stands in the last \\boxed{…} after the last </think>; None where there is none or thinking never ended.

    Boxes joined by no more than a comma, "and" or "or" are one answer of several parts.
    """
    final = final_part(text)
    if final is None:
        return None
    text = final
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    last = _box(text, start)
    if last is None:
        return None
    parts, nodes = [last[0]], 1
    while nodes < 20:
        before = max(text.rfind("\\boxed", 0, start), text.rfind("\\fbox", 0, start))
        box = _box(text, before, start)
        if box is None or start - box[1] > _BETWEEN or not _JOINED.fullmatch(text, box[1], start):
            break
        if box[0] != parts[-1]:
            parts.append(box[0])
        start, nodes = before, nodes + 1
    return ", ".join(reversed(parts)) or None


def _box(text: str, start: int, stop: int | None = None) -> tuple[str, int] | None:
    """What the box at `start` holds and where it ends; None when it is not closed before `stop`."""
    match = re.compile(r"\\(?:boxed|fbox)\s*\{").match(text, start) if start >= 0 else None
    if match is None:
        return None
    depth = 0
    for i in range(match.end(), len(text) if stop is None else stop):
        if text[i] == "{":
            depth += 1
        elif text[i] == "}":
            if depth == 0:
                return text[match.end() : i].strip(), i + 1
            depth -= 1
    return None


def plain_number(text: str) -> Fraction | None:
    """The value of digits with an optional sign, commas every three digits and decimals; else None."""
    text = text.strip()
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else None
