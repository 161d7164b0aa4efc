"""Every key of a recipe with its type, default and meaning. `recipe/fields.txt` keeps them, a line a key, so that help,
completion and suggestions need not load the schema; `scripts/recipe_fields.py` writes it. Light to import."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import groupby

FIELDS = resources.files("srft") / "recipe" / "fields.txt"


@dataclass(frozen=True)
class RecipeField:
    """A key of a recipe.

    Args:
        key: dotted; a capital word stands for a name of the user's own, e.g. `evaluation.sets.NAME.path`.
        type: of the value, with its bounds, e.g. "int > 0"; "section" for a line about a section itself.
        default: as YAML; "required" where there is none; empty for a section.
        description: what it means, with its source where it has one.
    """

    key: str
    type: str
    default: str
    description: str

    @property
    def is_section(self) -> bool:
        """It describes a section, not a key with a value."""
        return self.type == "section"

    def line(self) -> str:
        """Four columns with tabs between them."""
        return "\t".join((self.key, self.type, self.default, self.description))


@cache
def recipe_fields() -> tuple[RecipeField, ...]:
    """All keys, in the recipe's order."""
    return tuple(RecipeField(*line.split("\t")) for line in FIELDS.read_text(encoding="utf-8").splitlines())


def fields_page(fields: Iterable[RecipeField]) -> str:
    """Markdown: a heading and a table for each top-level section."""
    parts = []
    for top, group in groupby(fields, lambda field: field.key.partition(".")[0]):
        members = list(group)
        if members[0].is_section:
            parts += [f"## `{top}`", members.pop(0).description]
        rows = [f"| `{f.key}` | {_cell(f.type)} | {_code(f.default)} | {_cell(f.description)} |" for f in members]
        parts.append("\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""
