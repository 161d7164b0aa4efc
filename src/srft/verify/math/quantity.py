"""Reads numbers exactly, without algebra, and splits off a currency sign, a unit or a percent sign."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from srft.verify.math.normal import FUNCTIONS
from srft.verify.math.units import NAMES, SCALES, unit_name

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d{1,400})"
_DECIMAL = rf"{_DIGITS}(?:\.\d{{1,400}})?"
_PLAIN = re.compile(rf"([+-]?)\s*({_DECIMAL})")
_TIMES = r"\s*(?:\\times|\\cdot|\*|x|×)\s*"
_SCIENTIFIC = re.compile(
    rf"([+-]?)\s*(?:({_DECIMAL})(?:\s*[eE]|{_TIMES}10\s*\^)|10\s*\^)\s*(?:\{{\s*([+-]?\s*\d{{1,3}})\s*\}}|([+-]?\d{{1,3}}))"
)
_REPEATING = re.compile(r"([+-]?)\s*(\d{1,40})\.(\d{0,40})\s*\\(?:overline|bar|dot)\s*\{(\d{1,40})\}")
_SLASH = re.compile(r"(.+?)\s*/\s*(.+)")
_FRAC = re.compile(r"([+-]?)\s*\\frac\{([^{}]+)\}\{([^{}]+)\}")
_MIXED = re.compile(
    rf"([+-]?)\s*({_DIGITS})\s*"
    r"(?:(?<=\s)(\d+)\s*/\s*(\d+)|\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\})"
)
# 0.333\ldots
_RECURRING = re.compile(r"([+-]?)\s*(\d{1,40})\.(\d{2,40})\s*\\dots")
_WORDS = "|".join(word for word in SCALES if word != "k")
_SCALE_WORD = rf"(?:(?<=[\d}}) ])(?:{_WORDS})s?|\\text\s*\{{\s*(?:{_WORDS}|k(?![a-z]))s?)"
_SCALE = re.compile(rf"(.*[\d}})a-z])\s*(?:(?:\\text\s*\{{)?\s*({_WORDS})s?\s*\}}?|\\text\s*\{{\s*(k)\s*\}})")
_ONES = "one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMERALS = {word: n for n, word in enumerate(f"zero {_ONES} {_TEENS}".split())}
_NUMERALS |= {word: 10 * n for n, word in enumerate(_TENS.split(), 2)}
_NUMERAL = re.compile(
    rf"(?:\\text\s*\{{)?\s*(?:(a|an|{'|'.join(_NUMERALS)})[\s-]*({_ONES.replace(' ', '|')})?|(?=half))"
    rf"((?:[\s-]*(?:{_WORDS})s?)*)\s*\}}?",
    re.IGNORECASE,
)


def exact(text: str) -> Fraction | None:
    """The exact value of a literal: an integer with or without thousands separators, a decimal, a fraction, a mixed
    number, scientific notation, a repeating decimal. None for anything else."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")") and "(" not in text[1:] and ")" not in text[:-1]:
        text = text[1:-1].strip()
        if "," in text:
            return None  # (2,251) is a pair
    if not text or len(text) > 1000:
        return None
    if match := _PLAIN.fullmatch(text):
        return _signed(match[1], Fraction(re.sub("[, ]", "", match[2])))
    if match := _SCIENTIFIC.fullmatch(text):
        power = int((match[3] or match[4]).replace(" ", ""))
        return _signed(match[1], Fraction(re.sub("[, ]", "", match[2] or "1")) * Fraction(10) ** power)
    if match := _MIXED.fullmatch(text):
        top, bottom = int(match[3] or match[5]), int(match[4] or match[6])
        whole = Fraction(re.sub("[, ]", "", match[2]))
        return _signed(match[1], whole + Fraction(top, bottom)) if top < bottom else None
    if match := _REPEATING.fullmatch(text):
        fixed, repeated = match[3], match[4]
        tail = Fraction(int(repeated), 10 ** len(fixed) * (10 ** len(repeated) - 1))
        return _signed(match[1], Fraction(f"{match[2]}.{fixed or '0'}") + tail)
    if match := _FRAC.fullmatch(text):
        return _ratio(match[1], match[2], match[3])
    if match := _RECURRING.fullmatch(text):
        return _recurring(match[1], match[2], match[3])
    if text[-1] in "}" or text[-1].isalpha():
        if (match := _SCALE.fullmatch(text)) and (value := exact(match[1])) is not None:
            return value * SCALES[match[2] or match[3]]
        return _numeral(text)
    if (match := _SLASH.fullmatch(text)) and "/" not in match[2]:
        return _ratio("", match[1], match[2])
    return None


def _recurring(sign: str, whole: str, digits: str) -> Fraction | None:
    """0.1666… with the block of digits that fills most of its end, at least twice; None when none recurs."""
    blocks = {
        size: re.search(rf"({re.escape(digits[-size:])}){{2,}}$", digits) for size in range(1, len(digits) // 2 + 1)
    }
    size, block = max(blocks.items(), key=lambda item: len(item[1][0]) if item[1] else 0)
    return exact(f"{sign}{whole}.{digits[:-size]}\\overline{{{digits[-size:]}}}") if block else None


def _numeral(text: str) -> Fraction | None:
    """Five, twenty-one, five hundred, two thirds, a dozen, half."""
    match = _NUMERAL.fullmatch(text)
    if match is None or (match[1] in ("a", "an") and not match[3]) or (match[2] and _NUMERALS.get(match[1], 0) < 20):
        return None
    value = Fraction(_NUMERALS.get((match[1] or "").lower(), 1) + _NUMERALS.get((match[2] or "").lower(), 0))
    for word in re.findall(_WORDS, match[3].lower()):
        value *= SCALES[word]
    return value


def _ratio(sign: str, top: str, bottom: str) -> Fraction | None:
    a, b = _PLAIN.fullmatch(top.strip()), _PLAIN.fullmatch(bottom.strip())
    if a is None or b is None:
        return None
    over = Fraction(re.sub("[, ]", "", b[2]))
    value = Fraction(re.sub("[, ]", "", a[2])) / over if over else None
    return None if value is None else _signed(sign, _signed(a[1], _signed(b[1], value)))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


_HOUR = re.compile(r"(\d{1,2})(?::(\d\d))?\s*(?:\\text\s*\{\s*)?([aApP])\.?\s*[mM]\.?\s*\}?")
_SCALED = re.compile(rf"(.+?{_SCALE_WORD})\s*(?:\}}\s*\\text\s*\{{)?\s*([A-Za-z]+)\s*\}}?")
_COUNTED = re.compile(r"([+-]?[\d.,/ ]*\d)\s+([A-Za-z]{3,}(?:\s+[A-Za-z]+)*)()")  # 5 apples
# 300 \text{ km} / \text{ s}, 300 \text{km}\text{s}^{-1}, 9.6 \AA
_COMPOUND = re.compile(
    r"(?P<value>.*?[\d})])"
    r"(?P<tail>(?!\)|\s*\^)(?:\s|\\text\s*\{[A-Za-z\s./\\]*\}|[/()]|\\cdot|\^\s*\{?\s*-?\d\s*\}?|\\(?:AA|mu)(?![a-zA-Z]))+)"
)
_BARE = "|".join(sorted((re.escape(w) for w in NAMES if len(w) > 1), key=len, reverse=True))
_UNIT_POWER = r"(?:\^\s*\{?\s*(-?\d)\s*\}?)?"
_DEGREE = re.compile(r"(.*\S)\s*\\degree\s*(?:\\text\s*\{\s*)?([CF])?\s*\}?")
_FUNCTION = re.compile(rf"\\(?:{FUNCTIONS})(?![a-zA-Z])")
_IN_TEXT = re.compile(rf"(.*[^\s,;=<>(\[{{^_])\s*\\text\s*\{{([^{{}}]*)\}}\s*{_UNIT_POWER}")
_BARE_UNIT = re.compile(
    rf"(.*?[\d}})])\s*((?:(?:square|sq|cubic|cu)\.?\s+)?(?:{_BARE})\.?(?:\s+(?:squared|cubed))?)\s*{_UNIT_POWER}"
)
_BARE_RATE = re.compile(
    rf"(.*?[\d}})])\s*((?:{_BARE}|m)\s*/\s*(?:{_BARE}|[hs])(?:\s*\^\s*\{{?\s*\d\s*\}}?)?)()"
)  # 5 m/s^2
_MONEY = re.compile(r"(?P<sign>[+-]?)\s*(?P<coin>\\\$|€|£|¥|₹)\s*(?P<value>[+-]?\s*[\d.\\].*)")
_COINS = {"$": "dollar", "€": "euro", "£": "pound_sterling", "¥": "yen", "₹": "rupee"}


@dataclass(frozen=True)
class Quantity:
    """An expression, its unit's name ("" for none) and whether it is a percentage."""

    value: str
    unit: str = ""
    percent: bool = False


def split_unit(text: str, trusted: bool = False) -> Quantity:
    """Splits off a unit, a currency sign or a %. A single bare letter stays in the value: it may be a variable.

    Args:
        trusted: any words after the number name a thing, not only known ones.
    """
    text = text.strip()
    if exact(text) is not None:
        return Quantity(text)  # with its million
    if match := _HOUR.fullmatch(text):
        return Quantity(f"{int(match[1]) % 12 + 12 * (match[3] in 'pP')}:{match[2] or '00'}")
    if (match := _SCALED.fullmatch(text)) and (unit := unit_name(match[2], "", trusted)) is not None:
        return Quantity(match[1].strip() + "}" * ("\\text" in match[1]), unit)
    if match := _MONEY.fullmatch(text):
        rest = split_unit(re.sub(r"(?<=\d)k$", r"\\text{k}", match["value"]), trusted)
        return Quantity(match["sign"] + rest.value, _COINS[match["coin"][-1]], rest.percent)
    if match := re.fullmatch(r"(.*?)\s*\\%", text):
        return Quantity(match[1].strip(), "", True)
    if match := re.fullmatch(r"(.*?)\s*(?:\\\$|€|£|¥|₹)", text):
        return Quantity(match[1], _COINS[text[-1]])
    if (match := _DEGREE.fullmatch(text)) and not _FUNCTION.search(match[1]):
        return Quantity(match[1], "degree" + (match[2] or ""))
    if (match := _COMPOUND.fullmatch(text)) and re.search(r"\\(?:text|AA)", match["tail"]):
        words = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", match["tail"]).replace("\\cdot", " ").replace("\\mu", "micro")
        unit = unit_name(re.sub(r"[()\\]", " ", words), "", trusted)
        return Quantity(text) if unit is None else Quantity(match["value"].strip(), unit)
    for pattern in (_IN_TEXT, _BARE_RATE, _BARE_UNIT, _COUNTED):
        if (match := pattern.fullmatch(text)) and (unit := unit_name(match[2], match[3] or "", trusted)) is not None:
            return Quantity(match[1].strip(), unit)
    return Quantity(text)
