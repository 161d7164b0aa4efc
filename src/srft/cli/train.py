"""`srft train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srft.cli.app import console, quiet
from srft.errors import SrftError, did_you_mean

ENGINES = ("local", "verl")


def complete_recipe(incomplete: str) -> list[str]:
    """The packaged recipes that begin so."""
    from srft.recipe.catalog import list_recipes

    return [name for name in list_recipes() if name.startswith(incomplete)]


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A packaged recipe, a YAML file or FILE:VARIANT.", autocompletion=complete_recipe),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, as many as you like; verl.key=value of verl's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/<recipe>-<time> if left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    engine: Annotated[str, typer.Option(help="local, or verl: on the GPUs of a Ray cluster.")] = "local",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; train nothing.")] = False,
) -> None:
    """Train as a recipe says: `srft train quickstart optim.lr=2e-6 training.steps=2 --out DIR`."""
    quiet()
    if engine not in ENGINES:
        raise SrftError(f"unknown engine '{engine}'", where="--engine", fix=did_you_mean(engine, ENGINES))
    from srft.recipe.load import load_recipe

    changes = list(overrides or [])
    if resume and recipe and "=" in recipe:  # `srft train --resume --out DIR training.steps=80`
        changes, recipe = [recipe, *changes], None
    of_verl: list[str] = []
    if engine == "verl":
        from srft.engines.verl.config import split_overrides

        changes, of_verl = split_overrides(changes)
    source: str | Path | None = recipe or (out / "recipe.yaml" if resume and out else None)
    if source is None:
        raise SrftError("no recipe given", where="srft train", fix="Name one: `srft recipes` lists them.")
    chosen = load_recipe(source, changes)
    if engine == "verl":
        from srft.engines.verl.support import check

        check(chosen)
    if dry_run:
        from srft.run.preview import show_plan

        show_plan(chosen, out, console())
        return
    if engine == "verl":
        from srft.engines.verl.train import train as run_on_verl

        if not run_on_verl(chosen, out, resume=resume, console=console(), overrides=of_verl).finished:
            raise typer.Exit(130)
        return
    from srft.run.train import train as run

    if not run(chosen, out, resume=resume, console=console()).finished:
        raise typer.Exit(130)
