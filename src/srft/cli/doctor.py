"""`srft doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srft.cli.app import quiet
from srft.safe_text import printable


def doctor(
    run: Annotated[Path | None, typer.Argument(help="a run directory; the machine if left out", metavar="RUN")] = None,
) -> None:
    """What works on this machine and what would not: versions, GPU, engines, extras, disk, grader, a model's load.
    Of a RUN: how far it came, its warnings with advice, whether its files and checkpoints are whole.
    Exits with 1 where something is bad."""
    quiet()
    from srft.run.doctor import checks
    from srft.run.examine import examine

    bad = []
    for check in checks() if run is None else examine(run):
        typer.echo(printable(f"{check.state:<4} {check.subject:<28} {check.detail}"))
        bad += [check.subject] if check.state == "bad" else []
    if run is None:
        typer.echo(f"Does not work: {', '.join(bad)}." if bad else "What is `ok` works; what is `off` is optional.")
    else:
        typer.echo(f"Look at: {', '.join(bad)}." if bad else "Nothing is wrong with it.")
    if bad:
        raise typer.Exit(1)
