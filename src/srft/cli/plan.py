"""`srft plan`."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from typing import Annotated

import typer

from srft.cli.app import console, quiet
from srft.cli.listing import complete_change, complete_recipe


class Trainer(StrEnum):
    """What trains."""

    local = "local"
    verl = "verl"


def plan(
    recipe: Annotated[
        str, typer.Argument(help="A packaged recipe, a YAML file or FILE:VARIANT.", autocompletion=complete_recipe)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="section.key=value, as many as you like.", autocompletion=complete_change),
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="h100-80, a100-80, l4, …; this machine as it is if left out.")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many, one training process each.")] = 1,
    engine: Annotated[Trainer, typer.Option(help="What trains: our own loop, or verl.")] = Trainer.local,
    prompt_tokens: Annotated[float | None, typer.Option(help="Mean length of a prompt.")] = None,
    response_tokens: Annotated[float | None, typer.Option(help="Mean length of a response.")] = None,
    problems: Annotated[int | None, typer.Option(help="To train on, where a recipe counts epochs.")] = None,
    price: Annotated[float | None, typer.Option(help="Of one GPU for an hour, for the cost of the run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Memory, time and cost of a recipe on any hardware: `srft plan qwen2.5-math-7b-srft --gpus 8 --gpu h100-80`.
    Nothing is downloaded."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    quiet()
    from srft.recipe.load import load_recipe
    from srft.run.planning import plan_recipe
    from srft.run.report import show_estimate, show_total

    chosen = load_recipe(recipe, overrides or [])
    sizes = plan_recipe(
        chosen,
        gpu,
        gpus,
        verl=engine is Trainer.verl,
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
        problems=problems,
    )
    if as_json:
        typer.echo(json.dumps({"recipe": chosen.name, "stages": [size.to_json() for size in sizes]}, indent=2))
        return
    for stage, size in enumerate(sizes, 1):
        if len(sizes) > 1:
            console().rule(f"stage {stage} of {len(sizes)}: {chosen.parts[stage - 1].method.name}")
        show_estimate(size, console(), price)
    show_total(sizes, console(), price)
