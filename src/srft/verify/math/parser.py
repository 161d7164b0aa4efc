"""Reads one expression by math-verify's parser, in a spelling that the parser takes for what it means."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from typing import Any

from srft.verify.math.normal import FUNCTIONS

LONGEST_TO_DO = 100  # characters of an expression with an integral, sum, product or limit that is worked out
_TO_DO = re.compile(r"\\(?:int|sum|prod|lim|cap|cup|setminus)(?![a-zA-Z])")
_DEGREES = re.compile(r"(\d[\d.]*|\\?[a-zA-Z]+|\([^()]*\)|\{[^{}]*\})\s*\\degree(?![a-zA-Z])")
_FUNCTION = re.compile(rf"\\(?:{FUNCTIONS})(?![a-zA-Z])")
_COMMAND = re.compile(r"\\[a-zA-Z]+|\\text\s*\{[^{}]*\}")

# What the parser would drop or evaluate: y' is y to it, and dy/dx, of a symbol y, is 0.
_DERIVATIVE = re.compile(
    r"\\frac\{\s*d\s*(\^\{\d\})?\s*(\\?[a-zA-Z]+(?:_\{\w+\})?)\s*\}\{\s*d\s*(\\?[a-zA-Z]+)\s*(?:\^\{\d\})?\s*\}"
)
_FOR_THE_PARSER: list[tuple[re.Pattern[str], Any]] = [
    (_DERIVATIVE, lambda m: f"z_{{d{re.sub(r'[^a-zA-Z0-9]', '', (m[1] or '') + m[2] + 'd' + m[3])}}}"),
    (re.compile(r"(?<![\\a-zA-Z])([eEiI])_\{(\w+)\}"), r"z_{\1\2}"),  # the parser has no variable E_1
    # gamma is the gamma function to it, and Ω the same as ω
    (re.compile(r"\\gamma(?![a-zA-Z])(?:_\{(\w+)\})?"), r"z_{gamma\1}"),
    (
        re.compile(r"\\(Delta|Omega|Sigma|Pi|Phi|Psi|Theta|Lambda|Xi|Gamma(?!\s*\())(?![a-zA-Z])(?:_\{(\w+)\})?"),
        r"z_{capital\1\2}",
    ),
    (re.compile(r"(\\int\s*(?:_\{[^{}]*\})?\s*)\^\s*([a-zA-Z])"), r"\1^{\2}"),
    # 2\binom{5}{2} is not 2 times it to the parser
    (re.compile(r"(?<=[\w)}])\s*\\binom"), r" \\cdot \\binom"),
    (re.compile(r"\\binom\{\{?(\d+)\}?\}\{\{?(\d+)\}?\}"), lambda m: f"({comb(int(m[1]), int(m[2]))})"),
    (re.compile(r"(?<=\d)[eE]([+-]?\d{1,3})(?![\d.])"), r"\\cdot 10^{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])([a-zA-Z])('+)(?!_)"), lambda m: f"{m[1]}_{{{'p' * len(m[2])}}}"),
]


class UnreadableError(Exception):
    """The candidate cannot be parsed as mathematics."""


@dataclass(frozen=True)
class MathVerify:
    """math-verify's two functions, and the extraction rules to parse with."""

    parse: Callable[..., Any]
    verify: Callable[..., Any]
    extraction: Sequence[Any]


@cache
def math_verify() -> MathVerify:
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # Units are ours: math-verify's own rule takes the m of 6m for metres.
    normal = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last")
    boxed = LatexExtractionConfig(False, boxed_match_priority=0, normalization_config=normal)
    return MathVerify(parse, verify, [boxed])


@cache
def plain_math_verify() -> MathVerify:
    """math-verify with its own rules for LaTeX, boxes first, and for plain expressions."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    own = math_verify()
    return MathVerify(own.parse, own.verify, (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()))


def read(text: str) -> Any | None:
    """The sympy object of an expression; None when it is not one."""
    library = math_verify()
    if re.search(r"\d\s+\d", text):
        return None  # the parser adds them: 4 5 would be 9
    if _FUNCTION.search(text):
        text = _DEGREES.sub(r"(\\frac{\1 \\cdot \\pi}{180})", text)
    text = text.replace("\\degree", "")
    if "\\text" in text:
        return None  # words that nothing above has read
    for pattern, replacement in _FOR_THE_PARSER:
        text = pattern.sub(replacement, text)
    # first_match: where the whole cannot be read, no fraction is picked out of it
    values = library.parse(
        f"\\boxed{{{text}}}", extraction_config=library.extraction, extraction_mode="first_match", parsing_timeout=None
    )
    value = values[0] if values and not isinstance(values[0], str) else None
    return value.doit() if value is not None and _TO_DO.search(text) and len(text) <= LONGEST_TO_DO else value


def keep_case(gold: str, candidate: str) -> tuple[str, str]:
    """Rename capitals that also occur as small letters, in both texts: the parser does not distinguish them."""
    letters = {c for text in (gold, candidate) for c in _COMMAND.sub(" ", text) if c.isascii() and c.isalpha()}
    clash = sorted(c for c in letters if c.isupper() and c.lower() in letters)
    free = [c for c in "qwzvkurpjlyoxnmbcats" if c not in letters and c.upper() not in letters]
    for capital, name in zip(clash, free, strict=False):
        gold, candidate = (re.sub(rf"(\\[a-zA-Z]+)|{capital}", lambda m: m[1] or name, t) for t in (gold, candidate))  # noqa: B023
    return gold, candidate
