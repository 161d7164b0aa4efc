"""Separates an answer from the condition at its end: `k\\pi, k \\in \\mathbb{Z}`, `2x \\text{ for all } x`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAMES = r"(?P<names>(?:\\[a-zA-Z]+|[a-zA-Z])(?:_\{\w+\})?(?:\s*,\s*(?:and\s+)?(?:\\[a-zA-Z]+|[a-zA-Z])(?:_\{\w+\})?)*)"
_KIND = (
    r"(?P<kind>(?:(?:real|rational|complex|natural|positive|negative|non-?negative|arbitrary|whole|even|odd|any)\s+)*"
    r"(?:real|complex|numbers?|integers?|constants?|reals|values?(?:\s+of)?))"
)
_DOMAIN = r"(?P<domain>(?:\\mathbb\{[A-Z]\}|[ZNRQC])(?:\s*[\^_]\s*\{[^{}]*\})?)"
_LEAD = r"(?P<lead>[,;(]?\s*(?:where|for|with|when|provided that|and|\\forall)?)\s*"
_CONDITIONS = [
    re.compile(pattern)
    for pattern in (
        # k \in Z; for all k \in Z
        rf"{_LEAD}(?:(?:all|any|every|each|some|an?)\s+)?(?:{_KIND}\s+)?{_NAMES}\s*\\in\s*{_DOMAIN}",
        # for all x; for all integers k
        rf"{_LEAD}(?:(?:all|any|every|each|some|an?)\s+(?:{_KIND}\s+)?|(?<=\\forall)\s*){_NAMES}",
        # k is an integer
        rf"{_LEAD}{_NAMES}\s+(?:is|are|being)\s+(?:(?:an?|any|all|some)\s+)?{_KIND}",
        # n \geq 1
        rf"{_LEAD}{_NAMES}\s*(?P<domain>(?:\\geq|\\neq|\\leq|>|<)\s*-?\d+)",
    )
]
_LONGEST = 100  # characters of a condition
_START = re.compile(r"\s*[,;(]|\s+|(?=\\text)|(?=\\forall)")
_MAYBE = re.compile(r"\\in(?![a-zA-Z])|\\forall|\b(?:is|are|being|for|all|any|every)\b|[,;(}].*(?:\\[gln]eq|[<>])")
_SETS = {"integer": "Z", "natural": "N", "real": "R", "complex": "C", "rational": "Q"}
_LABEL = re.compile(r"\s*([^=<>]*?)\s*(?:=|\\(?:geq|leq|neq|in)(?![a-zA-Z])|[<>])")


@dataclass(frozen=True)
class Statement:
    """An answer, and the condition that its writer adds.

    Args:
        variables: the names that the condition is about, "" for none.
        domain: their set as one letter, such as "Z", or a bound, such as ">0"; "" when the condition names none.
    """

    answer: str
    variables: str = ""
    domain: str = ""


def statement(text: str) -> Statement:
    """The answer without a condition at its end; all of the text when there is none that can be read."""
    if not _MAYBE.search(text):
        return Statement(text)
    depth = 0
    for i, character in enumerate(text):
        near = len(text) - i <= _LONGEST and depth == 0 and i > 0
        if near and _START.match(text, i) and (stated := _condition(text[:i], text[i:])) is not None:
            return stated
        depth += (character in "({[") - (character in ")}]")
    return Statement(text)


def _condition(answer: str, tail: str) -> Statement | None:
    flat = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", tail)
    flat = re.sub(r"\s+", " ", flat).strip(" .")
    if flat.startswith("(") and flat.endswith(")"):
        flat = "," + flat[1:-1].strip()
    flat = re.sub(r"^,\s*", ",", flat).rstrip(" ,")
    for pattern in _CONDITIONS:
        if match := pattern.fullmatch(flat):
            names = re.sub(r"\s|and", "", match["names"])
            fields = match.groupdict()
            domain = _domain(fields.get("kind") or "", fields.get("domain") or "")
            lead = match["lead"].strip()
            if not lead.strip(",;(") and not (lead and _about(names, answer, domain)):
                return None
            return Statement(answer.strip(" ,;"), names, domain)
    return None


def _about(names: str, answer: str, domain: str) -> bool:
    """Whether a bare ", n > 0" is about a name in the answer, rather than a further part of the answer."""
    label = _LABEL.match(answer)
    if label and (label[1] in names.split(",") or (not domain[:1].isalpha() and re.search(r"[<>]|\\[gln]eq", answer))):
        return False
    return all(name in answer for name in names.split(","))


def _domain(kind: str, domain: str) -> str:
    for word, letter in _SETS.items():
        if word in kind:
            return letter + "".join(sign for name, sign in (("positive", "+"), ("negative", "-")) if name in kind)
    return re.sub(r"\\mathbb\{([A-Z])\}|[\s{}^]", r"\1", domain)


def compatible(gold: Statement, candidate: Statement) -> bool:
    """Whether two conditions may go together: one of them says nothing of the domain, or both say the same."""
    return not gold.domain or not candidate.domain or gold.domain == candidate.domain


def renamed(gold: Statement, candidate: Statement) -> str:
    """The candidate's answer with the gold condition's variable in place of its own: n\\pi, n ∈ Z is k\\pi, k ∈ Z."""
    a, b = gold.variables, candidate.variables
    if not re.fullmatch("[a-zA-Z]", a) or not re.fullmatch("[a-zA-Z]", b) or a == b or a in candidate.answer:
        return candidate.answer
    return re.sub(rf"(\\[a-zA-Z]+)|{b}", lambda m: m[1] or a, candidate.answer)
