"""The decisions of the OAT grader's slow path, which the papers evaluate with, written anew: only math-verify's parser
reads an answer, never Python's or sympy's."""

from __future__ import annotations

import re
from typing import Any

from srft.verify.answer import LONGEST_ANSWER, last_box
from srft.verify.grade import RIGHT, UNPARSABLE, WRONG, Grade
from srft.verify.math.limits import refusal
from srft.verify.math.parser import plain_math_verify

# Words and letters that are dropped wherever they stand alone, as variables too.
_UNITS = (
    "degree|deg|mph|kmph|kmh|ft|feet|inch|inches|mile|yard|metre|meter|mt|mtr|m|cm|mm|km|dm|sq|square|cubic|"
    "cube|cc|cu cm|sq m|acre|hectare|kg|g|gm|lb|liter|litre|l|gal|gallon|second|sec|s|minute|min|hour|hr|h|day|"
    "month|year|yr|am|pm|noon|percent|rupee|rs|unit|man|men|woman|women|soldier|monkey|apple|coin|toy|tile|pie|"
    "way|mark|rounds|number|prime|ratio|per|by|more|less|rise|gain|loss|profit|excess|increase|decrease|pure|"
    "no change|east|west|ohm|are|ab|bc|st|th|rd|mp|lt|a|c|d|o|t"
)
_STRING_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\n|\\!", ""),
        (r"\\\\", r"\\"),
        (r"\\begin\{array\}\{.*?\}", r"\\begin{pmatrix}"),
        (r"\\end\{array\}", r"\\end{pmatrix}"),
        ("bmatrix", "pmatrix"),
        (r"[td]frac", "frac"),
        (r"\\neq", r"\\ne"),
        (r"\\leq", r"\\le"),
        (r"\\geq", r"\\ge"),
        (r"\\left|\\right", ""),
        (r"(?<=.)\\text\{.*?\}$", ""),
        (rf"(^|\W)(?:{_UNITS})s?(?=$|\W)", r"\1"),
        (r"\^\{\\circ\}|\^\\circ", ""),
        (r"\\\$", ""),
        (r"\\text\{ (?!.*\\text\{ ).*$", ""),
        (r"\\?%", ""),
        (r"(?<=[ {])\.|^\.", "0."),
        (r"^[^=]{0,2}=(?=[^=]+$)", ""),
        (r"\\sqrt\s*([^{\s])", r"\\sqrt{\1}"),
        (r" ", ""),
        (r"\\frac(\d)(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac(\d)\{", r"\\frac{\1}{"),
        (r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}"),
        (r"^0\.5$", r"\\frac{1}{2}"),
    )
]
_VALUE_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\?[%$]", ""),
        (r" (?:or|and) ", " , "),
        (r"million", "*10^6"),
        (r"billion", "*10^9"),
        (
            r"(?:degree|centimeter|cm|meter|mile|second|minute|hour|day|week|month|year|foot|feet|inch|yard)(?:e?s)? *"
            r"(?:\^\d+)?",
            "",
        ),
        (r"\^ *\\circ", ""),
        (r",\\! *", ""),
        (r"- *", "-"),
    )
]  # fmt: skip
_SYMBOLS = str.maketrans({"≤": "\\leq", "≥": "\\geq", "≠": "\\neq", "∈": "\\in", "±": "\\pm", "∩": "\\cap"})
# Commands of which only the argument stays.
_FONTS = re.compile(
    r"\\(?:text|mathrm|mathbf|mathit|textbf|boldsymbol|rm|underline|overline|overbrace|underbrace|cancel|choose)(?![a-z])|"
    r"\\(?:text)?color\{[^{}]*\}|\\$"
)
_FLOAT = re.compile(r"[+-]?(?:\d{1,300}(?:\.\d*)?|\.\d+)(?:e[+-]?\d)?")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def compare_as_oat(gold: str, candidate: str) -> Grade:
    """RIGHT when the two are equal as strings, as values part by part, or to math-verify; UNPARSABLE for an empty
    candidate or one that is refused as too large; else WRONG.

    Raises:
        Exception: any error of math-verify.
    """
    if "\\boxed" in gold:
        gold = last_box(gold) or gold
    if len(candidate) > LONGEST_ANSWER:
        return UNPARSABLE
    if _string(gold) == _string(candidate):
        return RIGHT
    a, b = _value(gold), _value(candidate)
    if _flat(a) == _flat(b):
        return RIGHT
    if not b or refusal(candidate):
        return UNPARSABLE
    if refusal(gold):
        return WRONG
    return RIGHT if _parts_equal(a, b) or _equal(gold, candidate) else WRONG


def _string(text: str) -> str:
    text = text.strip()
    if match := re.fullmatch(r"\\text\{(.+?)\}", text):
        text = match[1].strip()
    for pattern, replacement in _STRING_RULES:
        text = pattern.sub(replacement, text) or text
    return text


def _value(text: str) -> str:
    if match := re.fullmatch(r"\\text\{(.+?)\}", text):
        text = match[1]
    for pattern, replacement in _VALUE_RULES:
        text = pattern.sub(replacement, text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = _FONTS.sub("", re.sub(r"\\[td]frac", r"\\frac", text.translate(_SYMBOLS)))
    text = re.sub(r"(\d) +(\d)", r"\1+\2", text).replace(" ", "")  # 7 3/4 is 7+3/4
    return _whole(text.lower())


def _whole(text: str) -> str:
    """Integers in one spelling: 1,000, 1000.0 and 1e3 are 1000."""
    value = _number(text)
    return str(round(value)) if value is not None and abs(value - round(value)) <= 1e-7 else text


def _number(text: str) -> float | None:
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return float(plain) if _FLOAT.fullmatch(plain) else None


def _flat(value: str) -> str:
    """Without braces: \\frac{1}{2} is 1/2."""
    return _whole(re.sub(r"[{}]", "", re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"\1/\2", value)))


def _parts_equal(gold: str, candidate: str) -> bool:
    """Tuples part by part, with the same brackets; an integer or a fraction is matched strictly."""
    parts, other = _parts(gold), _parts(candidate)
    if len(parts) != len(other) or (len(parts) > 1 and (gold[0], gold[-1]) != (candidate[0], candidate[-1])):
        return False
    return all(_part_equal(a, b) for a, b in zip(parts, other, strict=True))


def _parts(text: str) -> list[str]:
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    bracketed = len(text) > 2 and text[0] in "([" and text[-1] in ")]" and not re.search(r"[()\[\]]", text[1:-1])
    return text[1:-1].split(",") if bracketed else [text]


def _part_equal(a: str, b: str) -> bool:
    a, b = _whole(a), _whole(b)
    if a == b:
        return True
    fraction, integer = re.compile(r"-?\d+/0*[1-9]\d*"), re.compile(r"-?\d+")
    if fraction.fullmatch(a) and fraction.fullmatch(b):
        return False
    if bool(integer.fullmatch(a)) or bool(integer.fullmatch(b)):
        return False
    if (value := _number(a)) is not None and value == _number(b):
        return True
    letters = set(re.sub(r"\\?(?:sqrt|frac|pi)", "", a + b)) & set("abcdefghijklmnopqrstuvwxyz")
    if len(letters) > 2 or not a or not b:
        return False
    return _equal(a, b)


def _equal(gold: str, candidate: str) -> bool:
    library = plain_math_verify()
    values: list[Any] = [
        library.parse(
            _PERCENT.sub(r"\\frac{\1}{100}", text if "$" in text else f"${text}$"),
            extraction_config=library.extraction,
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
        for text in (gold, candidate)
    ]
    return bool(library.verify(values[0], values[1], timeout_seconds=None))
