"""Answers that are refused before any algebra, because their size, nesting or numbers could take for ever."""

from __future__ import annotations

import re
from math import log10

from srft.verify.answer import LONGEST_ANSWER

DEEPEST = 40  # brackets within brackets
LARGEST_POWER = 10_000  # exponents that are numbers, those of powers of powers multiplied
LARGEST_FACTORIAL = 3000
LARGEST_NUMBER = 400  # digits

_POWER = re.compile(r"(?:\^|\*\*)")
_SIGNS = re.compile(r"\\(?:frac|cdot|times|sqrt|left|right|pi|text|mathrm)")
_PRODUCT = re.compile(r"\\(?:cdot|times)|\*|[)}\]\d]\s*[({\[]")
_FACTORIAL = re.compile(r"(\d+|[)}\]])\s*!(\s*!)*")
_CHOOSE = re.compile(r"\\[dt]?binom\s*\{?\s*(\d+)|(\d+)\s*\\choose|_\s*\{?\s*(\d+)\s*\}?\s*[CP](?![a-z])")


def refusal(text: str) -> str:
    """The reason to refuse an answer, in words; "" when it is accepted."""
    if len(text) > LONGEST_ANSWER:
        return f"longer than {LONGEST_ANSWER} characters"
    if _depth(text) > DEEPEST:
        return f"more than {DEEPEST} brackets deep"
    if re.search(rf"\d{{{LARGEST_NUMBER + 1}}}", text):
        return f"a number of more than {LARGEST_NUMBER} digits"
    if _powers(text) > log10(LARGEST_POWER):
        return f"an exponent above {LARGEST_POWER}"
    for match in _FACTORIAL.finditer(text):
        if match[1].isdigit() and (len(match[1]) > 6 or int(match[1]) > LARGEST_FACTORIAL):
            return f"a factorial above {LARGEST_FACTORIAL}"
        if match[0].count("!") > 2:
            return "a chain of factorials"
        if not match[1].isdigit() and re.search(r"[!^]", _before(text, match.start())):
            return "a factorial of a power or of a factorial"
    for match in _CHOOSE.finditer(text):
        digits = match[1] or match[2] or match[3]
        if len(digits) > 5 or int(digits) > LARGEST_POWER:
            return f"a binomial coefficient above {LARGEST_POWER}"
    return ""


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    return deepest


def _powers(text: str) -> float:
    """log10 of the largest exponent that is a number, times those of powers of powers; a tower counts as infinite."""
    largest = chained = 0.0
    for match in _POWER.finditer(text):
        exponent = _exponent(text, match.end())
        if re.search(r"[a-zA-Z]", _SIGNS.sub("", exponent)):
            if re.search(r"\d\s*\^\s*\{?\s*\d{2,}", exponent):
                return float("inf")
            continue
        if "!" in exponent or (_POWER.search(exponent) and _tower(exponent) > LARGEST_POWER):
            return float("inf")
        numbers = [n for n in map(_size, re.findall(r"\d+(?:\.\d+)?", exponent)) if n >= 1]
        size = sum(map(log10, numbers)) if _PRODUCT.search(exponent) else log10(max(sum(numbers), 1.0))
        if text[: match.start()].rstrip()[-1:] in (")", "}", "]"):
            chained += size
        else:
            largest = max(largest, size)
    return largest + chained


def _size(digits: str) -> float:
    return float(digits) if len(digits) < 300 else 1e300


def _tower(exponent: str) -> float:
    """An upper bound of a power of plain numbers, cut off once it is too large."""
    numbers = [_size(n) for n in re.findall(r"\d+(?:\.\d+)?", exponent)]
    value = 1.0
    for number in reversed(numbers):
        if number >= 2 and value * log10(number) > 10:
            return float("inf")
        value = max(number, 1.0) ** value
    return value


def _exponent(text: str, start: int) -> str:
    while start < len(text) and text[start] == " ":
        start += 1
    if text[start : start + 1] in ("{", "("):
        depth = 0
        for i in range(start, len(text)):
            depth += (text[i] in "({[") - (text[i] in ")}]")
            if depth == 0:
                return text[start + 1 : i]
        return text[start + 1 :]
    # 9^9^9 without braces is a tower as well
    match = re.compile(r"[+-]?(?:\\?\w+)(?:\s*(?:\^|\*\*)\s*[\w{(+-]+)*").match(text, start)
    return match[0] if match else ""


def _before(text: str, end: int) -> str:
    """The bracketed group that ends at `end`."""
    depth = 0
    for i in range(min(end, len(text) - 1), -1, -1):
        depth += (text[i] in ")}]") - (text[i] in "({[")
        if depth == 0:
            return text[i : end + 1]
    return text[: end + 1]
