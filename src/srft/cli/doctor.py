"""`srft doctor`."""

from __future__ import annotations

import typer

from srft.cli.app import quiet


def doctor() -> None:
    """What works on this machine and what would not: versions, GPU, engines, extras, disk, grader, a model's load.
    Exits with 1 where something keeps srft from working."""
    quiet()
    from srft.run.doctor import checks

    found = []
    for check in checks():
        found.append(check)
        typer.echo(f"{check.state:<4} {check.subject:<28} {check.detail}")
    broken = [check.subject for check in found if check.state == "bad"]
    typer.echo(f"Does not work: {', '.join(broken)}." if broken else "What is `ok` works; what is `off` is optional.")
    if broken:
        raise typer.Exit(1)
