"""Write the list of a recipe's keys from the schema: python scripts/recipe_fields.py

It is kept for the command line (src/srft/recipe/fields.txt) and between the two comments of docs/recipe-fields.md.
"""

from __future__ import annotations

from pathlib import Path

from srft.recipe.fields import fields_page
from srft.recipe.walk import walk_schema

ROOT = Path(__file__).resolve().parents[1]
LIST, PAGE = ROOT / "src/srft/recipe/fields.txt", ROOT / "docs/recipe-fields.md"
START, END = "<!-- fields -->\n", "<!-- /fields -->\n"


def main() -> None:
    """Replace the list, and what stands between the two comments of the page."""
    fields = list(walk_schema())
    LIST.write_text("".join(f"{field.line()}\n" for field in fields), encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(f"{before}{START}\n{fields_page(fields)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
