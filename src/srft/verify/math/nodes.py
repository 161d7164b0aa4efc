"""The shapes that an answer may have."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Leaf:
    """One expression, equation or inequality, which `algebra` compares."""

    text: str


@dataclass(frozen=True)
class Words:
    """An answer in words, in lower case and without punctuation, or one letter, as in `\\text{(C)}`."""

    text: str


@dataclass(frozen=True)
class Items:
    """Several answers. `bracket` is "" for a bare list and "{" for a set, whose order is free; "(" or "[" else."""

    parts: tuple[Node, ...]
    bracket: str


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`. `pair`: written as "(a, b)" or "[a, b]", so it may be a point as well."""

    low: str
    high: str
    closed_low: bool
    closed_high: bool
    pair: bool = False


@dataclass(frozen=True)
class Union:
    """A union of intervals and finite sets."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of cells; a determinant is another kind than a matrix."""

    rows: tuple[tuple[str, ...], ...]
    determinant: bool = False
    text: str = field(default="", compare=False)


@dataclass(frozen=True)
class Labelled:
    """`x = …`, `f(x) = …`, `x \\in …`: a name and its value."""

    label: str
    value: Node


Node = Leaf | Words | Items | Interval | Union | Matrix | Labelled

EMPTY = Items((), "{")
INFINITY = "\\infty"
