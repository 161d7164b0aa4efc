"""Parses an answer into its shape: a list, set, tuple, interval, matrix, words or one expression, perhaps labelled."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from fractions import Fraction

from srft.verify.math.nodes import EMPTY, INFINITY, Interval, Items, Labelled, Leaf, Matrix, Node, Union, Words
from srft.verify.math.normal import group_end
from srft.verify.math.quantity import exact

_NOTHING = re.compile(
    r"\\emptyset|\\\{\s*\\\}|\{\s*\}|(?:there (?:are|is) )?no (?:real |such |valid |possible |integer )?"
    r"(?:solutions?|roots?|values?|answers?)(?: exists?)?|(?:the )?empty set|none"
)
_EVERYTHING = re.compile(r"(?:all |any |the )?real(?:s| numbers?)")
_AND = re.compile(
    r",?\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|\\(?:land|lor|wedge|vee)(?![a-zA-Z]))\s*,?"
)
_OR = re.compile(r"(?<![a-zA-Z])or(?![a-zA-Z])|\\lor|\\vee")
_NAME = (
    r"(?:\\Delta\s*)?(?:\\?[a-zA-Z]+|\\(?:text|overline|vec|hat|dot|bar)\s*\{\s*[a-zA-Z ]+\})'*"
    r"(?:\s*_\s*(?:\{[^{}=]*\}|\w))?(?:\s*\^\s*\{\s*(?:\\prime|\\ast|\*|-1)\s*\})?"
    r"(?:\s*\(\s*(?:\\[a-z]+|-?\d+|[a-zA-Z](?:_\{\w+\})?)(?:\s*,\s*(?:\\[a-z]+|\d+|[a-zA-Z](?:_\{\w+\})?))*\s*\))?"
)
_LABEL = re.compile(
    rf"(?:{_NAME}|\(\s*{_NAME}(?:\s*,\s*{_NAME})*\s*\)|\\frac\{{\s*[A-Za-z ]+\}}\{{\s*[A-Za-z ]+\}}|"
    rf"\|\s*[A-Za-z ]+\s*\||\\(?:angle|triangle)\s*[A-Za-z_{{}}\d ]+|{_NAME}\s*:\s*{_NAME})\s*"
)
_RELATION = re.compile(r"\\leq|\\geq|\\neq|<|>")
_FLIP = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq", "\\neq": "\\neq"}
_MATRIX = re.compile(
    r"[(\[|]?\s*\\begin\{(?P<env>[pbBvV]?matrix|smallmatrix|array)\}(?:\{[clr| ]*\})?(?P<body>.*)"
    r"\\end\{(?P=env)\}\s*[)\]|]?",
    re.DOTALL,
)
_NUMBER_AND_UNIT = re.compile(r"\s*[+-]?[\d.,/ ]*\d\s*[A-Za-z. /]*|\s*[A-Z\d](?:\s*(?:,|and|or)\s*[A-Z\d])+\s*")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")


def parse(text: str) -> Node:
    """The shape of an answer that `normal.tidy` has rewritten; a Leaf when it is none of the others."""
    text = text.strip()
    if match := _MATRIX.fullmatch(text):
        if "\\begin" not in match["body"]:
            bars = match["env"] in ("vmatrix", "Vmatrix") or text.startswith("|")
            rows = [row.strip() for row in match["body"].split("\\\\")]
            return Matrix(tuple(tuple(cell.strip() for cell in row.split("&")) for row in rows if row), bars, text)
        return Leaf(text)
    if exact(text) is not None:
        return Leaf(text)
    if (whole := _TEXT.fullmatch(text)) and _NUMBER_AND_UNIT.fullmatch(whole[1]):
        return parse(whole[1])
    if words := _words(text):
        if _EVERYTHING.fullmatch(words.text):
            return Interval(f"-{INFINITY}", INFINITY, False, False)
        return EMPTY if _NOTHING.fullmatch(words.text) else words
    if _NOTHING.fullmatch(text):
        return EMPTY
    if (text[:1] == "]" or text[-1:] == "[") and not re.search(r"[()\[\]]", text[1:-1]):
        return _bracketed(text) or Leaf(text)
    for separator in (";", _AND, ","):
        parts = split(text, separator)
        if len(parts) > 1 and all(parts):
            return _list(text, parts, separator)
    return _single(text)


def split(text: str, separator: str | re.Pattern[str], inside: bool = False) -> list[str]:
    """The parts between the separators that are outside all brackets; a comma within a number separates nothing.

    Args:
        inside: the text is the inside of a tuple or set, where (3,100) has two parts and (3, 1,000) as well.

    Returns:
        the parts without surrounding spaces; the whole text as one part when nothing separates it.
    """
    pattern = re.compile(re.escape(separator)) if isinstance(separator, str) else separator
    parts, begin = [], 0
    for i in _outside(text):
        match = pattern.match(text, i)
        if i < begin or match is None or match.end() == i or (separator == "," and _within_number(text, i, inside)):
            continue
        parts.append(text[begin:i].strip())
        begin = match.end()
    parts.append(text[begin:].strip())
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    return parts


def _outside(text: str) -> Iterator[int]:
    """The indices outside all brackets. A bracket that closes nothing, as in ]0,1[, is ignored."""
    depth = 0
    for i, character in enumerate(text):
        if character in "({[":
            depth += 1
        elif character in ")}]":
            depth = max(depth - 1, 0)
        elif depth == 0:
            yield i


def _within_number(text: str, i: int, inside: bool) -> bool:
    """The comma of 1,000. A bare 100,200 was read as one number before; in brackets it is two."""
    left, right = re.search(r"(?<![\d,.])\d{1,3}(?:,\d{3})*$", text[:i]), re.match(r",\d{3}(?!\d)", text[i:])
    return bool(left and right and re.search(r",\s" if inside else r"[^\d,+-]", text))


def _list(text: str, parts: list[str], separator: str | re.Pattern[str]) -> Node:
    nodes = [node for part in parts for node in _spread(parse(part))] if separator != ";" else [parse(p) for p in parts]
    if groups := _grouped(nodes):
        return Items(groups, "")
    values = [n.value if isinstance(n, Labelled) else n for n in nodes]
    if separator is not _AND or not all(isinstance(v, Interval | Union) and not _pair(v) for v in values):
        return Leaf(text) if re.search(r"\\(?:land|lor|wedge|vee)(?![a-zA-Z])", text) else Items(tuple(nodes), "")
    label = nodes[0].label if isinstance(nodes[0], Labelled) else ""
    if _OR.search(text):
        return Labelled(label, Union(tuple(values)))
    low = [v for v in values if isinstance(v, Interval) and v.high == INFINITY]
    high = [v for v in values if isinstance(v, Interval) and v.low == f"-{INFINITY}"]
    if len(values) == 2 and low and high:  # x > 1 and x < 3
        return Labelled(label, Interval(low[0].low, high[0].high, low[0].closed_low, high[0].closed_high))
    return Leaf(text)


def _grouped(nodes: list[Node]) -> tuple[Node, ...]:
    """p = 5, q = 2 and p = 7, q = 2 as two answers of two; () when the names do not recur like this."""
    names = [node.label for node in nodes if isinstance(node, Labelled)]
    size = len(set(names))
    if len(names) != len(nodes) or size < 2 or len(names) == size:
        return ()
    groups = [tuple(nodes[i : i + size]) for i in range(0, len(nodes), size)] if len(names) % size == 0 else []
    whole = all(len({n.label for n in group if isinstance(n, Labelled)}) == size for group in groups)
    return tuple(Items(group, "") for group in groups) if whole else ()


def _pair(node: Node) -> bool:
    return isinstance(node, Interval) and node.pair


def _spread(node: Node) -> tuple[Node, ...]:
    """a, b and c is one list of three; 2 ± 1 within a list is two of its parts."""
    return node.parts if isinstance(node, Items) and node.bracket == "" else (node,)


def _single(text: str) -> Node:
    if (labelled := _labelled(text)) or (labelled := _inequality(text)):
        return labelled
    if re.search(r"\\cap(?![a-zA-Z])", text):
        return Leaf(text)
    pieces = split(text, re.compile(r"\\cup(?![a-zA-Z])"))
    if len(pieces) > 1:
        return Union(tuple(_single(piece) for piece in pieces))
    if match := re.fullmatch(r"\\mathbb\{R\}\s*(?:(?:\\setminus|-|/)\s*(\\?\{.*\}))?", text):
        return _reals_without(match[1], text)
    if re.fullmatch(r"\\mathbb\{R\}\s*(?:\^\s*\{?\s*\+\s*\}?|_\s*\{?\s*(?:\+|>\s*0)\s*\}?)", text):
        return Interval("0", INFINITY, False, False)
    if (bracketed := _bracketed(text)) is not None:
        return bracketed
    if re.search(r"\\(?:pm|mp)(?![a-zA-Z])", text):
        plus = re.sub(r"\\pm(?![a-zA-Z])", "+", re.sub(r"\\mp(?![a-zA-Z])", "-", text))
        minus = re.sub(r"\\pm(?![a-zA-Z])", "-", re.sub(r"\\mp(?![a-zA-Z])", "+", text))
        return Items((parse(re.sub(r"^\s*\+", "", plus)), parse(minus)), "")
    return Leaf(text)


def _labelled(text: str) -> Node | None:
    near = split(text, re.compile(r"\\approx(?![a-zA-Z])"))
    if len(near) > 1 and all(near):
        # x ≈ 11 says 11, but √2 ≈ 1.414 and x = √2 ≈ 1.414 say √2
        return Labelled(_squeeze(near[0]), parse(near[1])) if _LABEL.fullmatch(near[0]) else _single(near[0])
    sides = split(text, "=")
    if len(sides) > 1 and all(sides) and not _RELATION.search(text):
        if _LABEL.fullmatch(sides[0]):
            if len({value for side in sides[1:] if (value := _literal(side)) is not None}) < 2:
                return Labelled(_squeeze(sides[0]), parse(sides[-1]))
        elif None not in (values := {_literal(side) for side in sides}) and len(values) == 1:
            return Leaf(min(sides, key=lambda side: "%" in side))  # 10/4 = 2.5 = 250%
        elif len(sides) == 2 and _LABEL.fullmatch(sides[1]):
            return Labelled(_squeeze(sides[1]), parse(sides[0]))  # 5 = x
    member = split(text, re.compile(r"\\in(?![a-zA-Z])"))
    if len(member) == 2 and _LABEL.fullmatch(member[0]):
        return Labelled(_squeeze(member[0]), parse(member[1]))
    return None


def _literal(text: str) -> Fraction | None:
    value = exact(text.removesuffix("\\%"))
    return value / 100 if value is not None and text.endswith("\\%") else value


def _inequality(text: str) -> Node | None:
    """x > 1, 1 < x ≤ 2 and x ≠ 3 as the sets they describe."""
    signs = [text[i : _end(text, i)] for i in _outside(text) if _RELATION.match(text, i)]
    sides = split(text, _RELATION)
    if not signs or len(signs) != len(sides) - 1 or not all(sides) or "=" in text:
        return None
    if len(sides) == 3 and _LABEL.fullmatch(sides[1]) and _plain(sides[0]) and _plain(sides[2]):
        if {"<", "\\leq"} >= set(signs):
            return Labelled(_squeeze(sides[1]), Interval(sides[0], sides[2], signs[0] != "<", signs[1] != "<"))
        if {">", "\\geq"} >= set(signs):
            return Labelled(_squeeze(sides[1]), Interval(sides[2], sides[0], signs[1] != ">", signs[0] != ">"))
    if len(sides) != 2:
        return None
    sign, (left, right) = signs[0], sides
    if not _LABEL.fullmatch(left):
        sign, left, right = _FLIP[sign], right, left
    if not _LABEL.fullmatch(left) or not _plain(right):
        return None
    if sign == "\\neq":
        value: Node = _reals_without(f"{{{right}}}", text)
    elif sign in ("<", "\\leq"):
        value = Interval(f"-{INFINITY}", right, False, sign != "<")
    else:
        value = Interval(right, INFINITY, sign != ">", False)
    return Labelled(_squeeze(left), value)


def _end(text: str, i: int) -> int:
    match = _RELATION.match(text, i)
    return match.end() if match else i


def _plain(text: str) -> bool:
    """Whether it can be a bound: it has no variable."""
    return not re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+|(?<![a-zA-Z])e(?![a-zA-Z])", "", text))


def _reals_without(holes: str | None, text: str) -> Node:
    """ℝ, or ℝ without a few points when these are numbers that can be put in order."""
    if holes is None:
        return Interval(f"-{INFINITY}", INFINITY, False, False)
    points = split(holes.removeprefix("\\").removeprefix("{").removesuffix("}").removesuffix("\\"), ",", True)
    if any(exact(p) is None for p in points) and len(points) > 1:
        return Leaf(text)
    if len(points) > 1:
        points.sort(key=lambda p: exact(p) or 0)
    ends = [f"-{INFINITY}", *points, INFINITY]
    return Union(tuple(Interval(a, b, False, False) for a, b in itertools.pairwise(ends)))


def _bracketed(text: str) -> Node | None:
    """(…), […], {…}, ]a, b[ and sets by a condition."""
    if text.startswith("\\{") and text.endswith("\\}"):
        return _group(text[2:-2], "{", "{") if _balanced(text[2:-2]) else None
    if not text or text[0] not in "([{]" or text[-1] not in ")]}[":
        return None
    inside = text[1:-1]
    if text[0] != "]" and text[-1] != "[" and group_end(text, 0) != len(text):
        return None
    if text[0] == "]" or text[-1] == "[":
        ends = split(inside, ",", True) if len(split(inside, ",", True)) == 2 else split(inside, ";")
        return Interval(ends[0], ends[1], text[0] == "[", text[-1] == "]") if len(ends) == 2 else None
    return _group(inside, text[0], {")": "(", "]": "[", "}": "{"}[text[-1]])


def _balanced(text: str) -> bool:
    depth = 0
    for token in re.findall(r"\\[{}]", text):
        depth += 1 if token == "\\{" else -1
        if depth < 0:
            return False
    return depth == 0


def _group(inside: str, opening: str, closing: str) -> Node | None:
    parts = split(inside, ",", True) if ";" not in inside else split(inside, ";")
    if opening == "{" == closing:
        if not inside.strip():
            return EMPTY
        if condition := re.fullmatch(r"\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||:)\s*(.*)", inside):
            described = _inequality(condition[2])
            return described if described is not None else Leaf(inside)
        return Items(tuple(node for part in parts for node in _spread(parse(part))), "{")
    if "{" in (opening, closing) or not all(parts):
        return None
    if opening == "(" and len(parts) > 1 and all(isinstance(_labelled(part), Labelled) for part in parts):
        return parse(inside)  # (x = 1, y = 2)
    if len(parts) == 2:
        return Interval(parts[0], parts[1], opening == "[", closing == "[", pair=opening == closing)
    if opening != closing:
        return None
    if len(parts) == 1:
        return parse(inside) if opening == "(" else Items((parse(inside),), "[")
    return Items(tuple(parse(part) for part in parts), opening)


def _words(text: str) -> Words | None:
    """Words, in `\\text` or bare; no formula among them."""
    spelled = _TEXT.sub(lambda m: f" {m[1]} ", text)
    if letter := re.fullmatch(r"\s*\(?\s*([A-Za-z])\s*\)?\s*[.):]?\s*", spelled):
        return Words(letter[1]) if "\\text" in text or ("(" in text and letter[1].isupper()) else None
    if not re.fullmatch(r"[A-Za-z\d\s.,;:!?'\"()&/-]+", spelled) or _NUMBER_AND_UNIT.fullmatch(spelled):
        return None
    if spelled.strip()[0] in "-/&":
        return None
    words = re.findall(r"[A-Za-z\d]+(?:'[a-z]+)?", spelled)
    if not _TEXT.match(text) and not any(_sounds(word) for word in words):
        return None
    if not _TEXT.match(text) and (re.search(r"[/()]|\d", spelled) or _AND.search(text)):
        return None
    return Words(" ".join(words).lower()) if any(word.isalpha() for word in words) else None


def _sounds(word: str) -> bool:
    """A word rather than a product of variables."""
    return len(word) > 3 and bool(re.search(r"[aeiouy]", word.lower()))


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text)
