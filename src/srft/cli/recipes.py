"""`srft recipes`, `srft methods` and `srft benchmarks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srft.cli.app import console
from srft.cli.listing import complete_method, complete_recipe, method_texts, show_rows
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
        _show(name)
    else:
        _copy(name, copy)


def _show(name: str) -> None:
    from rich.syntax import Syntax

    from srft.recipe.text import recipe_text

    console().print(Syntax(recipe_text(name), "yaml", background_color="default"))


def _copy(name: str, file: Path) -> None:
    from srft.recipe.text import recipe_text

    text = recipe_text(name)
    if file.exists():
        raise SrftError("it exists already", where=str(file), fix="Name another file.")
    try:
        file.write_text(text)
    except OSError as error:
        raise SrftError(f"cannot be written: {error.strerror}", where=f"--copy {file}", fix="Name a file.") from None
    console().print(f"{file}: edit it, then `srft train {file}`")


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
    from srft.recipe.catalog import list_recipes

    show_rows(list_recipes())


def methods(
    name: Annotated[str | None, typer.Argument(help="Show this one.", autocompletion=complete_method)] = None,
) -> None:
    """List the methods; of one its source, options with their defaults and meaning, presets, needs and recipes."""
    listed = method_texts()
    if name is None:
        show_rows({word: text.partition("\n")[0].partition("  ")[2] for word, text in listed.items()})
        return
    from srft.recipe.catalog import recipes_of_method

    if name not in listed:
        raise SrftError(f"unknown method '{name}'", where="srft methods", fix=did_you_mean(name, listed))
    typer.echo(f"{listed[name]}  recipes  {', '.join(recipes_of_method(name))}")


def benchmarks() -> None:
    """List the benchmarks: problems, samples by protocol, how an answer is scored, data set, file in --data-dir."""
    from srft.evaluation.benchmarks import BENCHMARKS, GROUPS

    rows = {}
    for name, one in BENCHMARKS.items():
        groups = " ".join(f"{group} x{one.samples.get(group, 1)}" for group, names in GROUPS.items() if name in names)
        place = f"hub: {one.hub}{f' ({one.config})' if one.config else ''}, split {one.split}"
        score = one.metric if one.grader in ("math", "ifeval") else f"{one.metric} ({one.grader})"
        rows[name] = f"{one.rows} problems; {groups or 'by name alone'}; {score}; {place}; file: {one.file}"
    show_rows(rows)
