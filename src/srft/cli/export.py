"""`srft export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from srft.cli.app import console, quiet


class Precision(StrEnum):
    """Of the weights."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    merge: Annotated[bool, typer.Option("--merge", help="Add LoRA adapters into the weights they stand on.")] = False,
    dtype: Annotated[Precision, typer.Option(help="Of the weights.")] = Precision.bf16,
    checkpoint: Annotated[str, typer.Option(help="best, last or a step.")] = "last",
    push_to_hub: Annotated[str | None, typer.Option(help="Upload it to this repository too.")] = None,
    public: Annotated[bool, typer.Option("--public", help="A repository that is created is public.")] = False,
) -> None:
    """Write a run's model as a plain folder with a model card: `srft export runs/x --merge --out my-model`."""
    quiet()
    from srft.run.export import export as run_export

    exported = run_export(
        run,
        out,
        merge=merge,
        dtype=dtype.value,
        checkpoint=checkpoint,
        push_to_hub=push_to_hub,
        private=not public,
    )
    console().print(f"{out}: {exported} as a model; AutoModelForCausalLM.from_pretrained({str(out)!r}) loads it")
    if push_to_hub:
        console().print(f"uploaded to https://huggingface.co/{push_to_hub}")
