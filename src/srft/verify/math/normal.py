"""Rewrites Unicode, TeX synonyms and plain-text mathematics as plain TeX that means the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from srft.verify.math.chinese import translate

_CHARACTERS = {
    "−–—‐‑﹣－": "-", "＋": "+", "×✕✖": "\\times ", "÷": "/", "·⋅•∙": "\\cdot ", "∗＊": "*", "∕⁄／": "/", "＝": "=",
    "≤⩽": "\\leq ", "≥⩾": "\\geq ", "≠": "\\neq ", "≈≃≅": "\\approx ", "±": "\\pm ", "∓": "\\mp ", "∞": "\\infty ",
    "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅⌀": "\\emptyset ", "∖": "\\setminus ", "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}", "√": "\\sqrt ", "∛": "\\sqrt[3]",
    "°º˚": "^{\\circ}", "π": "\\pi ", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ",
    "δ": "\\delta ", "ε": "\\epsilon ", "λ": "\\lambda ", "μµ": "\\mu ", "ρ": "\\rho ", "σ": "\\sigma ", "τ": "\\tau ",
    "φϕ": "\\phi ",
    "ω": "\\omega ", "Ω": "\\Omega ", "Δ": "\\Delta ", "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ",
    "⌉": "\\rceil ", "⟨〈": "\\langle ", "⟩〉": "\\rangle ", "，、": ",", "；": ";", "：∶": ":", "．": ".", "（": "(",
    "）": ")", "［": "[", "］": "]", "｛": "\\{", "｝": "\\}", "％": "%", "＜": "<", "＞": ">", "“”„": '"', "‘’′": "'",
    "½": "\\frac{1}{2}", "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}",
    "⅕": "\\frac{1}{5}", "⅖": "\\frac{2}{5}", "⅗": "\\frac{3}{5}", "⅘": "\\frac{4}{5}", "⅙": "\\frac{1}{6}",
    "⅚": "\\frac{5}{6}", "⅛": "\\frac{1}{8}", "⅜": "\\frac{3}{8}", "⅝": "\\frac{5}{8}", "⅞": "\\frac{7}{8}",
    "０": "0", "１": "1", "２": "2", "３": "3", "４": "4", "５": "5", "６": "6", "７": "7", "８": "8", "９": "9",
    "…⋯": "\\dots ", "∀": "\\forall ", "∴": "\\therefore ", "⇒→": "\\Rightarrow ",
    "\u200b\u200c\u200d\u2060\ufeff": "",
}  # fmt: skip
_TABLE = str.maketrans({one: tex for many, tex in _CHARACTERS.items() for one in many})
_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUB = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|lg|max|min|gcd|lcm|det"
_BASE_WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_BASES = "|".join(["\\d+", *_BASE_WORDS.split()[2:]])


def _in_base(match: re.Match[str]) -> str:
    base = match[1] if match[1].isdigit() else _BASE_WORDS.split().index(match[1])
    return f"_{{{base}}}"


_NAME = r"(?<![\\a-zA-Z])"  # not within a word or a command

# In this order: (pattern, replacement).
_REWRITES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[\x00-\x1f\x7f-\xa0\u2000-\u200a\u202f\u205f\u3000\ud800-\udfff]", " "),
        (r"\{\s*,\s*\}", ","),  # 10{,}000
        (r"\\!\s*", ""),
        (r"\\\\\s*\[[\d.]+\s*(?:pt|ex|em|mm|cm)\]", r"\\\\"),
        (r"(?<!\\)\\(?:[,;:>]|(?:enspace|thinspace|displaystyle|textstyle|limits|nolimits)(?![a-zA-Z]))", " "),
        (r"\\q?quad", " "),  # also in \quadx, which is no command
        (r"(?<!\\)\\(?= )", ""),
        (r"~(?!=)", " "),
        (r"~=", r"\\approx "),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"(?<!\\)\$", " "),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?)\s*\.", " "),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*", ""),
        (r"\\[lr]?(?:vert|mid)(?![a-zA-Z])", "|"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\lbrack(?![a-zA-Z])", "["),
        (r"\\rbrack(?![a-zA-Z])", "]"),
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\smallmatrix", "matrix"),
        (r"\\(?:leqslant|leqq|le)(?![a-zA-Z])|<\s*=|=\s*<", r"\\leq "),
        (r"\\(?:geqslant|geqq|ge)(?![a-zA-Z])|>\s*=|=\s*>", r"\\geq "),
        (r"\\ne(?![a-zA-Z])|!=", r"\\neq "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:simeq|thickapprox|doteq|cong)(?![a-zA-Z])", r"\\approx "),
        (r"\\colon(?![a-zA-Z])", ":"),
        (r"\\varnothing(?![a-zA-Z])|\\O(?![a-zA-Z])", r"\\emptyset "),
        (r"\\(?:smallsetminus|backslash)(?![a-zA-Z])", r"\\setminus "),
        (r"\\(?:Bbb|mathbf|mathbb)\s*\{?\s*([RZNQC])(?![a-zA-Z])\s*\}?", r"\\mathbb{\1}"),
        (r"\\(?:R|reals)(?![a-zA-Z])", r"\\mathbb{R}"),
        (r"\\([ZNQ])(?![a-zA-Z])", r"\\mathbb{\1}"),
        (r"\\\{\s*\\begin", r"\\{ \\begin"),
        (r"\\(dot|bar|overline)\s*(\d)", r"\\\1{\2}"),
        (r"\\(?:ldots|cdots|dotsc|dotsb)(?![a-zA-Z])", r"\\dots "),
        (r"\\(?:ast|star)(?![a-zA-Z])", "*"),
        (r"\\div(?![a-zA-Z])", "/"),
        (r"\\pi(?=[a-zA-Z])", r"\\pi "),
        (r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degrees?(?![a-zA-Z])|\\textdegree", r"\\degree "),
        # text macros, then those of one letter or of a function's name are that letter or function
        (
            r"\\(?:mathrm|mathbf|mathit|mathsf|mathtt|mathnormal|textrm|textbf|textit|textsf|texttt|textnormal|textup"
            r"|textsc|emph|mbox|hbox|operatorname\*?|boldsymbol|bm)\s*\{",
            r"\\text{",
        ),
        (r"\{\s*\\(?:rm|bf|it)\s+", r"\\text{"),
        (
            rf"(?<=[\dA-Fa-f)])\s*_\s*\{{\s*(?:\\text\s*\{{\s*(?:base\s*)?\}}?|base|\()?\s*({_BASES})\s*[)\s}}]*\}}",
            _in_base,
        ),
        (r"\\text\s*\{\s*\}", ""),
        (r"_\s*\{?\s*\\text\s*\{\s*([a-zA-Z0-9]+)\s*\}\s*\}?", r"_{\1}"),
        (r"_\s*([a-zA-Z0-9])(?![a-zA-Z0-9])", r"_{\1}"),
        (r"_\s*\{\s*(\\?[a-zA-Z0-9]+)\s*\}", r"_{\1}"),
        (r"_\{\\([a-zA-Z]+)\}", r"_{\1}"),  # of the sun, \odot, among others, which the parser does not know
        (r"(?<=\d)\s*\\text\s*\{\s*min\s*\}\s*$", r"\\text{minute}"),
        (rf"\\text\s*\{{\s*({FUNCTIONS})\s*\}}", r"\\\1 "),
        # upright constants and differentials
        (r"(?<=.)\\text\s*\{\s*([abcdefijnopqruvwxyz])\s*\}|^\\text\s*\{\s*([eid])\s*\}(?=.)", r" \1\2"),
        (r"\\(?:mathrm|rm)\s+([eid])(?![a-zA-Z])", r" \1"),
        # what only decorates
        (r"\\(?:text)?color(?:box)?\s*(?:\[\w+\])?\s*\{[^{}]*\}|\\(?:underline|underbrace|overbrace)(?![a-zA-Z])", ""),
        (r"\\(?:tiny|small|normalsize|[lL]arge|LARGE|[hH]uge|rm|(?:black)?square|qed|checkmark)(?![a-zA-Z])", " "),
        (r"\\[hv](?:space|phantom)\*?\s*\{[^{}]*\}", " "),
        (r":\s*=", "="),
        (
            r"(?i)^(?:\s|=|\\(?:approx|therefore|because|rightarrow|longrightarrow|implies|iff|to)(?![a-zA-Z])|"
            r"(?:so|thus|hence|therefore|(?:the )?(?:final )?answer(?: is|:))(?=[ :,])[:,]?|"
            r"\\text\s*\{\s*(?:so|thus|hence|therefore|about|approx(?:imately|\.)?|roughly|"
            r"(?:the )?(?:final )?answer(?: is|:)?)[ :,]*\})+",
            "",
        ),
        (r"^\\text\s*\{\s*(?:negative|minus)\s*\}\s*(?=[\d.\\])", "-"),
        (r"\\not\s*=", r"\\neq "),
        # money
        (r"\\(?:text)?euro(?![a-zA-Z])(?:\{\})?", "€"),
        (r"\\(?:pounds|textsterling)(?![a-zA-Z])(?:\{\})?", "£"),
        (r"\\text\s*\{\s*(\\\$|[€£¥₹])\s*\}", r"\1"),
        # numbers
        (r"(?<=\d)(\.\d+)\s*\.{3}", r"\1\\dots "),
        (r"(?<=\d)\s*(?:\\text\s*\{\s*to\s*\}|\bto\b)\s*(?=\d)", ":"),
        (
            rf"(?<=[\dA-Fa-f)])\s*(?:\\text\s*\{{)?\s*\(?\s*(?:in\s+)?base[ -]*\}}?\s*({_BASES})(?![\w.])\s*\)?\s*\}}?",
            _in_base,
        ),
        (r"(?:\{\s*\})?[_^]\s*\{?(\d+)\}?\s*C\s*_\s*\{?(\d+)\}?", r"\\binom{\1}{\2}"),
        (r"(?<![a-zA-Z\\])C_\s*\{?(\d+)\}?\s*\^\s*\{?(\d+)\}?", r"\\binom{\1}{\2}"),
        # plain-text mathematics
        (r"^\s*\*\*(.*)\*\*\s*$", r"\1"),
        (r"\*\*", "^"),
        (rf"{_NAME}(?:infinity|Infinity)(?![a-zA-Z])", r"\\infty "),
        (rf"{_NAME}(?:pi)(?![a-zA-Z])", r"\\pi "),
        (rf"{_NAME}sqrt(?![a-zA-Z])", r"\\sqrt"),
        (rf"{_NAME}({FUNCTIONS})(?=\s*[({{\d\\]|\s+[a-z](?![a-zA-Z]))", r"\\\1 "),
        (r"(?<=[\])])\s*U\s*(?=[\[(])", r"\\cup "),
        (r"\^\s*([+-]?\d+)", r"^{\1}"),
        (r"\s*\\text\s*\{\s*(?:percent|percentage|pct)\s*\}", "%"),
        (rf"\s*{_NAME}(?:percentage|percent|pct)(?![a-zA-Z])", "%"),
        (r"\s*\\?%", r"\\%"),
        (r"(?<=\d)\.(?![\d.])(?!\s*\\(?:overline|bar|dot))", ""),  # 4. is 4
        (r"(?<![\d}])\.(?=\d)", "0."),
        (r"\s+", " "),
    )
]


def tidy(text: str) -> str:
    """The same answer in plain TeX: no sizes, spaces, dollar signs or Unicode; fractions and roots with braces.

    `½` and `\\tfrac12` become `\\frac{1}{2}`; `≤` and `\\leqslant` become `\\leq`; `\\mathrm{cm}` becomes `\\text{cm}`.
    """
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: f"^{{{m[0].translate(_SUPER)}}}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: f"_{{{m[0].translate(_SUB)}}}", text)
    text = translate(text.translate(_TABLE))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    if "\\begin" not in text:
        text = text.replace("\\\\", ", ")
    text = _brace(text, "frac", 2)
    text = _brace(text, "binom", 2)
    text = _brace(text, "sqrt", 1)
    text = _exponents(text)
    return _trim(_SYSTEM.sub(_one_line, text))


_CHOOSE = re.compile(r"(?:\{|^)\s*((?:[^{}]|\{[^{}]*\})+?)\s*\\choose\s*((?:[^{}]|\{[^{}]*\})+?)\s*(?:\}|$)")
_SYSTEM = re.compile(
    r"(?:\\\{\s*)?\\begin\{(cases|aligned|align\*?|gathered|(?<=\\\{ \\begin\{)array)\}(?:\{[lcr ]+\})?(.*?)\\end\{\1\}"
)


def _one_line(system: re.Match[str]) -> str:
    """A system of equations as a list; a function by cases stays."""
    if system[1] == "cases" and "&" in system[2]:
        return system[0]
    return ", ".join(line.replace("&", "").strip(" ,") for line in system[2].split("\\\\") if line.strip())


def group_end(text: str, start: int) -> int | None:
    """The index after the bracket that closes the one at `start`; None when none does."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "({[") - (text[i] in ")}]")
        if depth == 0:
            return i + 1
    return None


def _trim(text: str) -> str:
    """Without the braces around all of it and the punctuation at its end."""
    while True:
        before, text = text, text.strip()
        if not text.endswith("\\dots"):
            text = re.sub(r"(?:(?<!\\)[.,;:]|(?<!\\)\\\\|(?<=[a-zA-Z\d)}\]])\s*\\)\s*$", "", text)
        if text.startswith("{") and group_end(text, 0) == len(text) and not _is_set(text[1:-1]):
            text = text[1:-1]
        if text == before:
            return text


def _is_set(text: str) -> bool:
    """Elements, or a condition: {1,2}, {x | x > 2}; but {1,000} is a number."""
    if re.match(r"\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:]", text):
        return True
    return any(sep in text for sep in ",;") and not re.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text.strip())


@dataclass(frozen=True)
class _Argument:
    content: str  # without its braces
    end: int  # index after it


def _argument(text: str, i: int) -> _Argument | None:
    """TeX's next argument from index `i` on; None when there is none."""
    while i < len(text) and text[i] == " ":
        i += 1
    if i >= len(text) or text[i] in "}])":
        return None
    if text[i] == "{":
        end = group_end(text, i)
        return None if end is None else _Argument(text[i + 1 : end - 1], end)
    command = re.compile(r"\\[a-zA-Z]+\s?").match(text, i)
    return _Argument(command[0].strip(), command.end()) if command else _Argument(text[i], i + 1)


def _brace(text: str, command: str, arguments: int) -> str:
    """`\\frac12` to `\\frac{1}{2}`, `\\sqrt 2` to `\\sqrt{2}`, `\\sqrt(x)` to `\\sqrt{x}`."""
    pattern, i = re.compile(rf"\\{command}(?![a-zA-Z])\s*(\[[^\[\]]*\])?"), 0
    while match := pattern.search(text, i):
        contents, end = [], match.end()
        if command == "sqrt" and text[end : end + 1] == "(" and (close := group_end(text, end)):
            contents, end = [text[end + 1 : close - 1]], close
        elif command == "sqrt" and (digits := re.compile(r"\d+(?:\.\d+)?").match(text, end)):
            # \sqrt12 is TeX for √1·2, but nobody who writes it means that
            contents, end = [digits[0]], digits.end()
        else:
            for _ in range(arguments):
                argument = _argument(text, end)
                if argument is None:
                    break
                contents.append(argument.content)
                end = argument.end
        if len(contents) < arguments:
            i = match.end()
            continue
        head = f"\\{command}{match[1] or ''}"
        text = text[: match.start()] + head + "".join(f"{{{a}}}" for a in contents) + text[end:]
        i = match.start() + len(head)
    return text


def _exponents(text: str) -> str:
    """`x^(1/2)` to `x^{1/2}`."""
    i = 0
    while (i := text.find("^", i)) >= 0:
        start = i + 1 + (text[i + 1 : i + 2] == " ")
        if text[start : start + 1] == "(" and (end := group_end(text, start)):
            text = f"{text[: i + 1]}{{{text[start + 1 : end - 1]}}}{text[end:]}"
        i += 1
    return text
