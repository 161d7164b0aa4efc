"""`srft recipes` and `srft methods`."""

from __future__ import annotations

import shutil
import sys
import textwrap
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from srft.cli.app import console
from srft.cli.train import complete_recipe
from srft.errors import SrftError, did_you_mean


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this one.", autocompletion=complete_recipe)] = None,
    copy: Annotated[Path | None, typer.Option(help="Copy it to this file, to make it yours.")] = None,
    fields: Annotated[
        bool, typer.Option("--fields", help="List what a recipe may say, all of it or what begins with NAME.")
    ] = False,
) -> None:
    """List the packaged recipes; show one, or copy it to a file of your own."""
    if fields:
        _list_fields(name or "")
    elif name is None:
        _list()
    elif copy is None:
        from rich.syntax import Syntax

        from srft.recipe.text import recipe_text

        console().print(Syntax(recipe_text(name), "yaml", background_color="default"))
    else:
        from srft.recipe.text import recipe_text

        text = recipe_text(name)
        if copy.exists():
            raise SrftError("it exists already", where=str(copy), fix="Name another file.")
        copy.write_text(text)
        console().print(f"{copy}: edit it, then `srft train {copy}`")


def _list_fields(start: str) -> None:
    """A line a key, with tabs between its columns."""
    from srft.recipe.fields import recipe_fields

    keys = [field.key for field in recipe_fields()]
    chosen = [field for field in recipe_fields() if field.key.startswith(start)]
    if not chosen:
        raise SrftError(f"no key of a recipe begins with '{start}'", where="--fields", fix=did_you_mean(start, keys))
    for field in chosen:
        typer.echo(field.line())


def _list() -> None:
    """A line a recipe; summaries are wrapped in a terminal only. Plain text: a table by rich takes twice as long."""
    from srft.recipe.catalog import list_recipes

    packaged = list_recipes()
    indent = max(map(len, packaged)) + 2
    width = shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else 0
    for name, summary in packaged.items():
        lines = textwrap.wrap(summary, width) if width >= 20 else [summary]
        typer.echo(name.ljust(indent) + f"\n{' ' * indent}".join(lines))


def methods() -> None:
    """List the methods: what each is, what it needs, its options with their defaults."""
    typer.echo(resources.files("srft").joinpath("objective/methods.txt").read_text(encoding="utf-8"), nl=False)
