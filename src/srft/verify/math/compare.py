"""Compares two answers of any shape: sets in any order, tuples in theirs, single expressions by `algebra`."""

from __future__ import annotations

import re

from srft.verify.answer import LONGEST_ANSWER, answer_of
from srft.verify.grade import RIGHT, UNPARSABLE, WRONG, Grade
from srft.verify.math.algebra import equal, same
from srft.verify.math.limits import refusal
from srft.verify.math.nodes import INFINITY, Interval, Items, Labelled, Leaf, Matrix, Node, Union, Words
from srft.verify.math.normal import tidy
from srft.verify.math.parser import UnreadableError
from srft.verify.math.statement import compatible, renamed, statement
from srft.verify.math.structure import parse

_MINUTES = re.compile(r"\d\s*(?:'|\^\s*\{?\s*\\prime)")  # of an angle, or feet
_LETTER = re.compile(r"(?:[a-zA-Z]|\\[a-z]+)(?:_\{\w+\})?")


def compare(gold: str, candidate: str) -> Grade:
    """RIGHT or WRONG; UNPARSABLE for a candidate that is refused as too large or is no mathematics.

    Raises:
        Exception: any error of math-verify or sympy.
    """
    if gold.strip() == candidate.strip():
        return RIGHT
    if len(candidate) > LONGEST_ANSWER:
        return UNPARSABLE
    if "\\boxed" in gold:
        gold = answer_of(gold) or gold
    gold, candidate = tidy(gold), tidy(candidate)
    if gold == candidate:
        return RIGHT if gold else UNPARSABLE
    if not candidate or refusal(candidate):
        return UNPARSABLE
    if bool(_MINUTES.search(gold)) != bool(_MINUTES.search(candidate)):
        return WRONG
    a_stated, b_stated = statement(gold), statement(candidate)
    if not compatible(a_stated, b_stated):
        return WRONG
    gold, candidate = a_stated.answer, renamed(a_stated, b_stated)
    try:
        a, b = parse(gold), parse(candidate)
        right = alike(a, b) or _by_algebra(a, b, gold, candidate)
    except UnreadableError:
        return UNPARSABLE
    return RIGHT if right else WRONG


def _by_algebra(a: Node, b: Node, gold: str, candidate: str) -> bool:
    """Equality that only solving shows: −x > −1 is x < 1, and (0, 1] ∪ (1, 2) is (0, 2)."""
    if isinstance(a, Labelled) and isinstance(b, Labelled) and not (_formula(a.value) and _formula(b.value)):
        return False  # x = 5 is not y = 5, but y = x/2 is x = 2y
    if _relation(a, gold) and _relation(b, candidate):
        return equal(gold, candidate)
    bare = [n.value if isinstance(n, Labelled) else n for n in (a, b)]
    sets = all(_set(n) for n in bare)
    return sets and any(isinstance(n, Union | Leaf) for n in bare) and equal(_value(gold), _value(candidate))


def _formula(node: Node) -> bool:
    return isinstance(node, Leaf) and bool(re.search(r"(?<![\\a-zA-Z])[a-zA-Z]", node.text))


def _set(node: Node) -> bool:
    if isinstance(node, Leaf):
        return bool(re.search(r"\\(?:setminus|cap)(?![a-zA-Z])", node.text))
    return isinstance(node, Union | Interval) or (isinstance(node, Items) and node.bracket == "{")


def _relation(node: Node, text: str) -> bool:
    return isinstance(node, Leaf | Labelled) and bool(
        re.search(r"(?<!\\)[=<>]|\\(?:leq|geq|neq)(?![a-zA-Z])", re.sub(r"_\{[^{}]*\}", "", text))
    )


def _value(text: str) -> str:
    return text.rpartition("\\in ")[2]


def alike(gold: Node, candidate: Node) -> bool:
    """Whether two shapes are the same answer.

    Raises:
        UnreadableError: an expression of the candidate cannot be parsed, or is refused as too large.
    """
    if gold == candidate:
        return True
    match gold, candidate:
        case (Labelled(label=name, value=Interval() | Items()), _) if "," in name and name != (
            own := _sorted_names(name)
        ):
            return alike(Labelled(own, _permuted(name, gold.value)), candidate)
        case (_, Labelled(label=name, value=Interval() | Items())) if "," in name and name != (
            own := _sorted_names(name)
        ):
            return alike(gold, Labelled(own, _permuted(name, candidate.value)))
        case Labelled(), Labelled():
            candidate = _same_argument(gold, candidate)
            return gold.label == candidate.label and alike(gold.value, candidate.value)
        case Labelled(), Leaf() if _relation(candidate, candidate.text):
            return False  # an equation, which is for algebra
        case Labelled(), _:
            return alike(gold.value, candidate)
        case _, Labelled():
            return alike(gold, candidate.value)
        case Items(parts=(only,)), Leaf() | Words() | Interval():
            return alike(only, candidate)
        case Leaf() | Words() | Interval(), Items(parts=(only,)):
            return alike(gold, only)
        case Items(), Items():
            return _items(gold, candidate)
        case Interval(), Interval():
            return _interval(gold, candidate)
        case Interval(pair=True), Items(bracket="", parts=(_, _)):
            return not gold.closed_low and _items(_point(gold), candidate)
        case Items(bracket="", parts=(_, _)), Interval(pair=True):
            return not candidate.closed_low and _items(gold, _point(candidate))
        case Union(), Union():
            return _matched(gold.parts, candidate.parts)
        case Matrix(), Matrix():
            return _matrix(gold, candidate)
        case (Matrix(), Leaf()) | (Leaf(), Matrix()):
            texts = [node.text for node in (gold, candidate) if isinstance(node, Matrix | Leaf)]
            return all("\\begin" in text for text in texts) and equal(*texts)
        case (Items(bracket=""), Leaf()) | (Leaf(), Items(bracket="")):
            return _digits(gold) == _digits(candidate) != []  # 100,200 may be a list
        case Words(), Words():
            return gold.text == candidate.text or _flat(gold.text) == _flat(candidate.text)
        case (Words(), Leaf()) | (Leaf(), Words()):
            return _word_and_leaf(gold, candidate)
        case Leaf(), Leaf():
            return same(gold.text, candidate.text)
    return False


def _same_argument(gold: Labelled, candidate: Labelled) -> Labelled:
    """f(t) = t + 1 with the letter of f(x)."""
    a, b = (re.fullmatch(r"([^\\]+)\(([a-z])\)", node.label) for node in (gold, candidate))
    if not a or not b or a[1] != b[1] or a[2] == b[2] or not isinstance(candidate.value, Leaf):
        return candidate
    if b[2] not in re.sub(r"\\[a-zA-Z]+", "", candidate.value.text):
        return candidate  # f(y) = 1 says nothing of f(x)
    text = re.sub(rf"(\\[a-zA-Z]+)|{b[2]}", lambda m: m[1] or a[2], candidate.value.text)
    return candidate if a[2] in candidate.value.text else Labelled(gold.label, Leaf(text))


def _point(pair: Interval) -> Items:
    return Items((parse(pair.low), parse(pair.high)), "(")


def _digits(node: Node) -> list[str]:
    if isinstance(node, Leaf) and re.fullmatch(r"[\d,]+", node.text):
        return sorted(node.text.split(","))
    parts = node.parts if isinstance(node, Items) else ()
    return (
        sorted(part.text for part in parts if isinstance(part, Leaf)) if all(isinstance(p, Leaf) for p in parts) else []
    )


def _flat(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def _word_and_leaf(gold: Node, candidate: Node) -> bool:
    a, b = (n.text.replace("\\text", "") for n in (gold, candidate) if isinstance(n, Leaf | Words))
    if len(_flat(a)) == len(_flat(b)) == 1 and "-" not in a + b:
        return "".join(filter(str.isalnum, a)) == "".join(filter(str.isalnum, b))
    return _flat(a) == _flat(b) != "" and not re.search(r"[\\+=<>-]", a + b)


def _interval(gold: Interval, candidate: Interval) -> bool:
    closed = (gold.closed_low, gold.closed_high) == (candidate.closed_low, candidate.closed_high)
    return closed and _bound(gold.low, candidate.low) and _bound(gold.high, candidate.high)


def _bound(gold: str, candidate: str) -> bool:
    gold, candidate = (text.strip().removeprefix("+") for text in (gold, candidate))
    if INFINITY in gold or INFINITY in candidate:
        return gold.replace(" ", "") == candidate.replace(" ", "")
    return alike(parse(gold), parse(candidate))


def _items(gold: Items, candidate: Items) -> bool:
    if len(candidate.parts) > len(gold.parts) and not {gold.bracket, candidate.bracket} & {"(", "["}:
        candidate = Items(tuple(dict.fromkeys(candidate.parts)), candidate.bracket)  # repeated
    if len(gold.parts) != len(candidate.parts) or {gold.bracket, candidate.bracket} in ({"{", "("}, {"{", "["}):
        return False
    names = [p.label for p in gold.parts if isinstance(p, Labelled)]
    other = [p.label for p in candidate.parts if isinstance(p, Labelled)]
    if len(set(names)) == len(names) == len(gold.parts) and set(names) == set(other) and len(other) == len(names):
        by_name = {p.label: p for p in candidate.parts if isinstance(p, Labelled)}
        return all(alike(p, by_name[p.label]) for p in gold.parts if isinstance(p, Labelled))
    if "(" in (gold.bracket, candidate.bracket):
        gold, candidate = _by_name(gold), _by_name(candidate)
    ordered = {gold.bracket, candidate.bracket} & {"(", "["} or _different_things(names, gold)
    if ordered:
        return all(alike(a, b) for a, b in zip(gold.parts, candidate.parts, strict=True))
    return _matched(gold.parts, candidate.parts)


def _name_order(name: str) -> tuple[int, str]:
    """The order in which a tuple gives its parts: x, y, z; x_1, x_2; r, \\theta."""
    return (name.startswith("\\"), name)


def _sorted_names(label: str) -> str:
    return f"({','.join(sorted(label.strip('()').split(','), key=_name_order))})"


def _permuted(label: str, value: Node) -> Node:
    """The value of (y, x) in the order of (x, y)."""
    names = label.strip("()").split(",")
    parts = _point(value).parts if isinstance(value, Interval) else value.parts if isinstance(value, Items) else ()
    if len(parts) != len(names):
        return value
    return Items(
        tuple(part for _, part in sorted(zip(names, parts, strict=True), key=lambda pair: _name_order(pair[0]))), "("
    )


def _by_name(items: Items) -> Items:
    """y = 3, x = -2 as x = -2, y = 3: the tuple (-2, 3). Names of several letters stay in the order that is written."""
    named = {p.label: p for p in items.parts if isinstance(p, Labelled)}
    if len(named) != len(items.parts) or not all(_LETTER.fullmatch(name) for name in named):
        return items
    return Items(tuple(named[name] for name in sorted(named, key=_name_order)), items.bracket)


def _different_things(names: list[str], gold: Items) -> bool:
    """AB = 4, CD = 5 asks for two things in order; x_1 = 4, x_2 = 5 and a = 4, −8 for the values of one."""
    return len(names) == len(gold.parts) and len({name.partition("_")[0] for name in names}) == len(names) > 1


def _matched(gold: tuple[Node, ...], candidate: tuple[Node, ...]) -> bool:
    """Whether each finds a partner among the others."""
    left = list(candidate)
    if len(gold) != len(left):
        return False
    unread: UnreadableError | None = None
    for part in gold:
        for i, other in enumerate(left):
            try:
                if alike(part, other):
                    del left[i]
                    break
            except UnreadableError as error:
                unread = error
        else:
            if unread:
                raise unread
            return False
    return True


def _matrix(gold: Matrix, candidate: Matrix) -> bool:
    if gold.determinant != candidate.determinant or [len(r) for r in gold.rows] != [len(r) for r in candidate.rows]:
        return False
    cells = ((a, b) for x, y in zip(gold.rows, candidate.rows, strict=True) for a, b in zip(x, y, strict=True))
    return all(alike(parse(a), parse(b)) for a, b in cells)
