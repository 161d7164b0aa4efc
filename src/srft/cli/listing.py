"""Lists in plain text, a line an entry, and what completes on the command line. Nothing here loads torch or rich."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping
from functools import cache
from importlib import resources

import typer


def show_rows(rows: Mapping[str, str]) -> None:
    """Names and what they are, aligned; wrapped in a terminal only, so that a pipe has a line each."""
    indent = max(map(len, rows)) + 2
    width = shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else 0
    for name, summary in rows.items():
        lines = textwrap.wrap(summary, width) if width >= 20 else [summary]
        typer.echo(name.ljust(indent) + f"\n{' ' * indent}".join(lines))


@cache
def method_texts() -> dict[str, str]:
    """What is known of each method, in lines, by name."""
    text = resources.files("srft").joinpath("objective/methods.txt").read_text(encoding="utf-8")
    texts: dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        name = name if line.startswith(" ") else line.partition("  ")[0]
        texts[name] = texts.get(name, "") + line
    return texts


def complete_recipe(incomplete: str) -> list[str]:
    """The packaged recipes that begin so."""
    from srft.recipe.catalog import list_recipes

    return [name for name in list_recipes() if name.startswith(incomplete)]


def complete_method(incomplete: str) -> list[str]:
    """The methods that begin so."""
    return [name for name in method_texts() if name.startswith(incomplete)]


def complete_change(incomplete: str) -> list[str]:
    """The keys of a recipe that begin so, each with its `=`, and behind it the values where a key has a few."""
    from srft.recipe.fields import recipe_fields

    key, equals, value = incomplete.partition("=")
    if not equals:
        return [f"{field.key}=" for field in recipe_fields() if field.key.startswith(key) and not field.is_section]
    kinds = {field.key: field.type for field in recipe_fields()}
    values = list(method_texts()) if key == "method.name" else _choices(kinds.get(key, ""))
    return [f"{key}={word}" for word in values if word.startswith(value)]


def _choices(kind: str) -> list[str]:
    """The values that a type allows, where they can be listed: of "add | replace", "bool | null"."""
    listed = {"bool": ["true", "false"]} | {word: [] for word in ("int", "float", "str", "mapping", "list", "any", "")}
    words = [word.split(" ")[0] for word in kind.split(" | ") if not word.startswith("[")]
    return [value for word in words for value in listed.get(word, [word])]
