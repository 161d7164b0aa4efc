"""Layers of a recipe as plain trees of dicts and lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Sections whose options belong to a name: the key of the name, and the name where none is given.
CHOSEN_BY = {"method": ("name", "srft"), "prompting": ("strategy", "plain")}


def nest(key: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as {"a": {"b": value}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: sections key by key, an empty section clears one; where a section's name changes, its
    options beneath are dropped; `{"0": …}` changes the first item of a list."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, list) and isinstance(value, Mapping) and all(str(k).isdigit() for k in value):
            merged[key] = [merge(x, value[str(i)]) if str(i) in value else x for i, x in enumerate(old)]
        elif isinstance(value, Mapping) and isinstance(old, Mapping) and (chosen := CHOSEN_BY.get(key)):
            name, default = chosen
            before = old.get(name, default)
            renamed = value.get(name, before) != before
            merged[key] = dict(value) if renamed else {**old, **value}
        elif value and isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged
