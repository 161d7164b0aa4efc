"""Layers of a recipe as plain trees of dicts and lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Sections whose options belong to a name: the key of the name, and the name where none is given.
CHOSEN_BY = {"method": ("name", "srft"), "prompting": ("strategy", "plain")}
# Keys of a section of which one takes the other's place.
EITHER = {"training": ("steps", "epochs"), "data": ("path", "mix")}


class Anew(dict[str, Any]):
    """A section that takes the place of the one beneath it."""


def nest(key: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as {"a": {"b": value}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a tree by dotted key."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and value
        values |= leaves(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return values


def together(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two changes as one: `other` where both set the same key; an empty section clears what is said of it before."""
    joined = dict(one)
    for key, value in other.items():
        old = joined.get(key)
        if _changes_items(old, value):
            joined[key] = _changed_items(old, value)
        elif isinstance(value, Mapping):
            section = old if isinstance(old, dict) and value else {}
            kind = type(section) if value else Anew
            joined[key] = kind(together(section, value))
        else:
            joined[key] = value
    return joined


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: sections key by key, an empty section clears one; where a section's name changes, its
    options beneath are dropped; steps clear epochs beneath and the reverse, a path a mix; `{"0": …}` changes the first
    item of a list."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if _changes_items(old, value):
            merged[key] = _changed_items(old, value)
        elif value and isinstance(value, Mapping) and isinstance(old, Mapping) and not isinstance(value, Anew):
            merged[key] = _merge_section(key, old, value)
        else:
            merged[key] = value
    return merged


def _merge_section(key: str, below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    if key in CHOSEN_BY:
        name, default = CHOSEN_BY[key]
        before = below.get(name, default)
        return {**below, **above} if above.get(name, before) == before else dict(above)
    given = [word for word in EITHER.get(key, ()) if above.get(word) is not None]
    dropped = set(EITHER[key]) - set(given) if given else set()
    return merge({word: value for word, value in below.items() if word not in dropped}, above)


def _changes_items(old: Any, value: Any) -> bool:
    """The value is {"0": …}, changes to the items of an old list."""
    return isinstance(old, list) and isinstance(value, Mapping) and all(str(key).isdigit() for key in value)


def _changed_items(old: Any, changes: Mapping[str, Any]) -> list[Any]:
    return [merge(item, changes[str(i)]) if str(i) in changes else item for i, item in enumerate(old)]
