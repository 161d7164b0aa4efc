"""Compares two expressions: exact numbers directly, all others by math-verify, whose verdict is then checked."""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd
from typing import Any

from srft.verify.math.limits import refusal
from srft.verify.math.parser import UnreadableError, keep_case, math_verify, read
from srft.verify.math.quantity import Quantity, exact, split_unit
from srft.verify.math.units import same_unit, unit_name

SIGNIFICANT = 6  # digits that a decimal must give of a number it can only approximate
_RELATION = re.compile(r"(?<!\\)[=<>]|\\(?:leq|geq|neq|in)(?![a-zA-Z])")
_WORD = re.compile(r"(?<!\\)[A-Za-z]{2,}")
_RADIANS = re.compile(r"\\pi(?![a-zA-Z])|\\arc[a-z]+|\^\{-1\}")
_CLOCK = re.compile(r"(?:[01]?\d|2[0-4]):[0-5]\d(?::[0-5]\d)?")
_BASE = re.compile(r"\(?\s*([\dA-Fa-f]+)\s*\)?\s*_\{(\d+)\}")
_LETTER_UNIT = re.compile(r"([+-]?[\d.,/ ]*\d)(\s*)([msghLlJNW])(?:\s*\^\{[23]\})?")
_VECTOR = re.compile(r"\\(?:vec|overrightarrow)(?![a-zA-Z])")
_SUBSCRIPT = re.compile(r"_\{[^{}]*\}|_\d")


def same(gold: str, candidate: str) -> bool:
    """Whether two leaves, with their units and percent signs, are the same answer.

    Raises:
        UnreadableError: the candidate cannot be parsed, or is refused as too large.
    """
    if _bare(gold) == _bare(candidate):
        return True
    known = set(_WORD.findall(candidate)) <= set(_WORD.findall(gold))  # any words of the gold answer's own
    a, b = split_unit(gold, trusted=True), split_unit(candidate, trusted=known)
    if {a.unit, b.unit} & {"degree", "rad"} and (a.unit != b.unit):
        return _same_angle(a, b)
    if not same_unit(a.unit, b.unit):
        return False
    if (letter := _LETTER_UNIT.fullmatch(candidate)) and not b.unit:
        if a.unit and unit_name(letter[3]) == a.unit.partition("^")[0]:
            return equal(a.value, letter[1])  # 5m for 5 \text{ m}
        if letter[2] and exact(gold) is not None:
            return equal(gold, letter[1])
    if a.percent == b.percent:
        return equal(a.value, b.value)
    share, whole = (a, b) if a.percent else (b, a)
    value, plain = exact(share.value), exact(whole.value)
    if value is None or plain is None:
        hundredth = f"\\frac{{{share.value}}}{{100}}"
        return equal(hundredth, whole.value) if a.percent else equal(whole.value, hundredth)
    return plain == value / 100 or (plain == value and abs(value) > 1)  # 10 for 10 %, but not 0.5 for 0.5 %


def _same_angle(gold: Quantity, candidate: Quantity) -> bool:
    """90° is π/2, with or without "rad"; it is 90 as well, since a unit may be left out."""
    if not {gold.unit, candidate.unit} <= {"degree", "rad", "", "unit"}:
        return False
    if "degree" not in (gold.unit, candidate.unit):
        return equal(gold.value, candidate.value)
    other = candidate if gold.unit == "degree" else gold
    if other.unit != "rad" and not _RADIANS.search(other.value):
        return equal(gold.value, candidate.value)
    return equal(
        *(f"\\frac{{({q.value}) \\cdot \\pi}}{{180}}" if q.unit == "degree" else q.value for q in (gold, candidate))
    )


def equal(gold: str, candidate: str) -> bool:
    """Whether two expressions, equations or inequalities without units are equal.

    Raises:
        UnreadableError: the candidate cannot be parsed, or is refused as too large.
    """
    if _bare(gold) == _bare(candidate):
        return True
    a, b = exact(gold), exact(candidate)
    if a is not None and b is not None:
        return a == b or _approximates(gold, a, candidate, b)
    if ":" in gold or ":" in candidate:
        return _same_ratio(gold, candidate)
    if _BASE.fullmatch(gold) or _BASE.fullmatch(candidate):
        return _same_base(gold, candidate)
    if refusal(candidate):
        raise UnreadableError(refusal(candidate))
    gold_is, candidate_is = (bool(_RELATION.search(_SUBSCRIPT.sub("", text))) for text in (gold, candidate))
    if candidate_is and not gold_is:
        return _evaluates_to(gold, candidate)
    if _VECTOR.search(gold) and gold.count("\\times") != candidate.count("\\times"):
        return False  # the parser makes no difference between the products of vectors
    if gold_is and not candidate_is and re.search(r"[\d^]", _SUBSCRIPT.sub("", gold.partition("=")[0])):
        return False  # 7 = 11a + c is not 11a + c
    return _algebra(*keep_case(gold, candidate))


def _bare(text: str) -> str:
    text = re.sub(r"\\(?:,|;|!| )|\s+", " ", text.strip())
    return re.sub(r"(?<![a-zA-Z\d]) | (?![a-zA-Z\d])", "", text)


def _same_ratio(gold: str, candidate: str) -> bool:
    """2:4 is 1:2, and 1/2 as well; but 2:30 is a time of day, which is not 1:15."""
    a, b = gold.split(":"), candidate.split(":")
    times = [bool(_CLOCK.fullmatch(text)) for text in (gold, candidate)]
    if all(times) or (times[0] and gcd(*map(int, a)) > 1):
        return all(n.isdigit() for n in b) and list(map(int, a)) == list(map(int, b))
    if any(times) and 1 in (len(a), len(b)):
        return False
    if sorted((len(a), len(b))) == [1, 2]:
        return equal(*(f"\\frac{{{n[0]}}}{{{n[1]}}}" if len(n) == 2 else n[0] for n in (a, b)))
    return len(a) == len(b) and all(
        equal(f"({x}) \\cdot ({b[0]})", f"({y}) \\cdot ({a[0]})") for x, y in zip(a[1:], b[1:], strict=True)
    )


def _same_base(gold: str, candidate: str) -> bool:
    a, b = _BASE.fullmatch(gold), _BASE.fullmatch(candidate)
    if a and b:
        return (a[1].lower().lstrip("0"), a[2]) == (b[1].lower().lstrip("0"), b[2])
    digits, other = (a[1], candidate) if a else (b[1], gold) if b else ("", "")
    return other.strip().lstrip("0") == digits.lstrip("0")  # the base may be left out, as the question names it


def _evaluates_to(gold: str, candidate: str) -> bool:
    """3 + 4 = 7 and a + b = 7 say 7; 2x = 7, −x = 7 and 3 = 7 do not."""
    sides = [side.strip() for side in candidate.split("=")]
    if len(sides) < 2 or not all(sides) or re.search(r"[<>]|\\(?:leq|geq|neq|in)(?![a-zA-Z])", candidate):
        _check_readable(candidate)
        return False
    if not equal(gold, sides[-1]):
        return False
    named = re.fullmatch(r"[A-Za-z|(][^\d^-]*", _SUBSCRIPT.sub("", sides[0])) and "\\sqrt" not in sides[0]
    return bool(named) or equal(gold, sides[0])


def _check_readable(candidate: str) -> None:
    """Raise UnreadableError when the candidate cannot be parsed."""
    if read(candidate) is None:
        raise UnreadableError("no expression")


def _approximates(gold: str, a: Fraction, candidate: str, b: Fraction) -> bool:
    """0.0833333 for 1/12: only a number that no decimal can give may be approximated by one."""
    for written, value, other in ((candidate, b, a), (gold, a, b)):
        if "." in written and not _terminates(other):
            return _rounds(written, value, other)
    return False


def _terminates(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _rounds(written: str, value: Fraction, truth: Fraction) -> bool:
    """Whether a decimal gives `truth` rounded or cut off to its own digits, of which there must be enough."""
    if abs(value - truth) <= abs(truth) / 10**25:
        return True
    match = re.fullmatch(r"\s*[+-]?\s*([\d, ]*)\.(\d+)\s*", written)
    if match is None:
        return abs(value - truth) <= abs(truth) / 10**9
    digits = (re.sub(r"\D", "", match[1]) + match[2]).lstrip("0")
    place = Fraction(1, 10 ** len(match[2]))
    cut_off = abs(value) < abs(truth) and abs(value - truth) < place
    return len(digits) >= SIGNIFICANT and (cut_off or abs(value - truth) <= place / 2)


def _algebra(gold: str, candidate: str) -> bool:
    a, b = read(gold) if not refusal(gold) else None, read(candidate)
    if b is None:
        raise UnreadableError("no expression")
    if a is None:
        return False
    if (verdict := _decimal_verdict(gold, a, candidate, b)) is not None:
        return verdict
    if _differ_somewhere(a, b):
        return _equal_with_imaginary_unit(a, b)
    right = bool(math_verify().verify([a], [b], timeout_seconds=None)) or _equal_with_imaginary_unit(a, b)
    return right and not _apart(a, b) and not _vacuous(a, b)


def _vacuous(a: Any, b: Any) -> bool:
    """Two equations that only have no solution in common, which math-verify takes for the same: x² = −1 and x² = −2."""
    from sympy import Eq, simplify, solve

    if not isinstance(a, Eq) or not isinstance(b, Eq):
        return False
    if a.free_symbols != b.free_symbols:
        return True
    if solve(a, a.free_symbols) and solve(b, b.free_symbols):
        return False
    f, g = a.lhs - a.rhs, b.lhs - b.rhs
    return bool(simplify(f - g) != 0 and simplify(f + g) != 0)


def _differ_somewhere(a: Any, b: Any) -> bool:
    """Whether two formulas clearly differ at a point, which spares the search for a proof that they are equal."""
    from sympy import Expr, Integral, Product, Sum
    from sympy.core.function import AppliedUndef, Derivative

    if not isinstance(a, Expr) or not isinstance(b, Expr):
        return False
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if not symbols or any(x.has(Integral, Sum, Product, Derivative, AppliedUndef) for x in (a, b)):
        return False
    point = {symbol: 1.27 + 0.61 * i for i, symbol in enumerate(symbols)}
    try:
        x, y = (complex(value.evalf(15, subs=point)) for value in (a, b))
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False
    return abs(x - y) > 1e-6 * (abs(x) + abs(y)) and max(abs(x), abs(y)) > 1e-9


def _decimal_verdict(gold: str, a: Any, candidate: str, b: Any) -> bool | None:
    """A decimal against a number that is not one, such as √3/2; None for any other pair."""
    for written, other in ((candidate, a), (gold, b)):
        value = exact(written)
        if value is not None and "." in written and (number := _number(other)) is not None:
            return _rounds(written, value, number)
    return None


def _number(value: Any) -> Fraction | None:
    """30 digits of a real number; None for anything else."""
    if getattr(value, "free_symbols", {1}) or not hasattr(value, "evalf"):
        return None
    number = value.doit().evalf(30)
    if not getattr(number, "is_real", False) or not number.is_number or not number.is_finite:
        return None
    return Fraction(str(number))


def _apart(a: Any, b: Any) -> bool:
    """Two numbers that differ after all: math-verify rounds to six places, which makes 1.6e-19 and 1.7e-19 equal."""
    try:
        x, y = _number(a), _number(b)
    except (ValueError, ArithmeticError, TypeError, AttributeError):
        return False
    return x is not None and y is not None and abs(x - y) > max(abs(x), abs(y)) * Fraction(1, 10**9)


def _equal_with_imaginary_unit(a: Any, b: Any) -> bool:
    """i(2 − i) is 1 + 2i; the parser takes i for a variable unless something else in it is complex."""
    from sympy import I, simplify

    symbols = getattr(a, "free_symbols", set()) | getattr(b, "free_symbols", set())
    units = [s for s in symbols if getattr(s, "name", "") == "i"]
    if not units or not hasattr(a, "subs") or not hasattr(b, "subs"):
        return False
    try:
        difference = a.subs(dict.fromkeys(units, I)) - b.subs(dict.fromkeys(units, I))
        if not difference.free_symbols:
            return bool(abs(complex(difference.evalf(30))) < 1e-20)
        return bool(simplify(difference) == 0)
    except (TypeError, ValueError, AttributeError, ArithmeticError):
        return False
