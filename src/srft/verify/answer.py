"""Where a response's answer stands, and the plain numbers that need no algebra to compare."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?")


def answer_of(text: str) -> str | None:
    """What stands in the last \\boxed{…} after the last </think>; None where there is none or thinking never ended."""
    if "<think>" in text and "</think>" not in text:
        return None
    text = text.rpartition("</think>")[2]
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for i in range(begin, len(text)):
        if text[i] == "{":
            depth += 1
        elif text[i] == "}":
            if depth == 0:
                return text[begin:i].strip() or None
            depth -= 1
    return None


def plain_number(text: str) -> Fraction | None:
    """The value of digits with an optional sign, commas every three digits and decimals; else None."""
    text = text.strip()
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else None
