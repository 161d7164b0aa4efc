"""`srft select`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srft.cli.app import console, quiet
from srft.errors import SrftError


def select(
    run: Annotated[Path, typer.Argument(help="A run directory with saved rollouts.")],
    out: Annotated[Path, typer.Option(help="JSONL file to write, for `data.path`.")],
    keep: Annotated[str, typer.Option(help="correct, noise, entropy, rbf, noise+rbf or pairs.")] = "correct",
    top: Annotated[float, typer.Option(help="Share of a prompt's right samples kept by entropy or rbf.")] = 0.5,
    noise: Annotated[float, typer.Option(help="Share of wrong samples in what is kept.")] = 0.05,
    model: Annotated[str | None, typer.Option(help="Scores entropy and rbf; else the run's best or newest.")] = None,
    seed: Annotated[int, typer.Option(help="Of the wrong samples' draw.")] = 0,
) -> None:
    """Select demonstrations, or preference pairs, from a run's own rollouts: `srft select runs/x --out mine.jsonl`."""
    quiet()
    from srft.recipe.load import validated
    from srft.run.select import saved_candidates
    from srft.training.run_dir import RunDir
    from srft.training.selection import select as keep_some
    from srft.training.selection import write_selection
    from srft.training.settings import SelectionSettings

    how = validated(SelectionSettings, {"keep": keep, "top": top, "noise": noise}, "data.selection")
    candidates = saved_candidates(RunDir(run), how, model)
    chosen = keep_some(candidates, how, seed)
    try:
        write_selection(out, chosen)
    except OSError as error:
        raise SrftError(f"cannot be written: {error.strerror}", where=f"--out {out}", fix="Name a file.") from None
    right = sum(candidate.is_correct for candidate in candidates)
    console().print(f"{out}: {len(chosen)} of {len(candidates)} rollouts ({right} right) kept by {keep}")
