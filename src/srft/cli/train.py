"""`srft train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from srft.cli.app import Command, console, quiet
from srft.cli.listing import complete_change, complete_method, complete_recipe
from srft.errors import SrftError, did_you_mean

ENGINES = ("local", "verl")


class RecipeCommand(Command):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer's; an option that is a recipe's key, by our name or another library's, is told as one.

        Raises:
            SrftError: naming the key.
        """
        own = {word for parameter in self.get_params(ctx) for word in (*parameter.opts, *parameter.secondary_opts)}
        for i, word in enumerate(args):
            option, equals, value = word.partition("=")
            if option.startswith("--") and option not in own:
                from srft.recipe.aliases import key_of

                following = next((given for given in args[i + 1 : i + 2] if not given.startswith("--")), "VALUE")
                key, given = key_of(option[2:]), value if equals else following
                if key is not None:
                    fix = f"Write {key} {given}." if key.startswith("--") else f"Write {key}={given} without dashes."
                    raise SrftError(f"there is no option {option}", where=f"srft {ctx.info_name}", fix=fix)
        return super().parse_args(ctx, args)


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A packaged recipe, a YAML file or FILE:VARIANT.", autocompletion=complete_recipe),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="section.key=value, as many as you like; verl.key=value of verl's own.", autocompletion=complete_change
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="model.path; with --data it takes the recipe's place.")] = None,
    data: Annotated[str | None, typer.Option(help="data.path: a file, folder or hub id.")] = None,
    method: Annotated[
        str | None, typer.Option(help="method.name, srft if left out.", autocompletion=complete_method)
    ] = None,
    evaluate: Annotated[str | None, typer.Option("--eval", help="A file or hub id to evaluate on.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/<recipe>-<time> if left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Continue though recipe, data or code are not what they were.")
    ] = False,
    engine: Annotated[str, typer.Option(help="local, or verl: on the GPUs of a Ray cluster.")] = "local",
    silent: Annotated[bool, typer.Option("--quiet", help="Print errors alone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; train nothing.")] = False,
) -> None:
    """Train as a recipe says: `srft train quickstart optim.lr=2e-6 training.steps=2 --out DIR`. Or without one:
    `srft train --model MODEL --data FILE --method sft`, with lengths, learning rate and steps by model and data."""
    quiet()
    if engine not in ENGINES:
        raise SrftError(f"unknown engine '{engine}'", where="--engine", fix=did_you_mean(engine, ENGINES))
    from rich.console import Console

    from srft.recipe.load import load_recipe

    changes = list(overrides or [])
    if recipe and "=" in recipe:  # `srft train --resume --out DIR training.steps=80`: no recipe is named
        changes, recipe = [recipe, *changes], None
    options = {"model.path": model, "data.path": data, "method.name": method}
    if evaluate is not None:
        options[f"evaluation.sets.{Path(evaluate).name.partition('.')[0]}.path"] = evaluate
    changes = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None] + changes
    of_verl: list[str] = []
    if engine == "verl":
        from srft.engines.verl.config import split_overrides

        changes, of_verl = split_overrides(changes)
    source: str | Path | None = recipe
    if resume:
        from srft.run.opening import check_resumable

        source = source or check_resumable(out)
    if source is not None:
        chosen = load_recipe(source, changes)
    elif model is not None and data is not None:
        from srft.run.defaults import recipe_for

        chosen = recipe_for(changes)
    else:
        fix = "Name one (`srft recipes` lists them), or give --model and --data."
        raise SrftError("no recipe given", where="srft train", fix=fix)
    if engine == "verl":
        from srft.engines.verl.support import check

        check(chosen)
    if dry_run:
        from srft.run.preview import show_plan

        show_plan(chosen, out, console())
        return
    shown = Console(quiet=True) if silent else console()
    if engine == "verl":
        from srft.engines.verl.train import train as run_on_verl

        if not run_on_verl(
            chosen, out, resume=resume, allow_changes=allow_changes, console=shown, overrides=of_verl
        ).finished:
            raise typer.Exit(130)
        return
    from srft.run.train import train as run

    if not run(chosen, out, resume=resume, allow_changes=allow_changes, console=shown).finished:
        raise typer.Exit(130)
