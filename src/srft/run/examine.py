"""What a run directory tells of its run, finished, broken or on its way: `srft doctor RUN`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from srft.errors import SrftError
from srft.policy.manifest import damage
from srft.recipe.load import load_recipe
from srft.recipe.schema import Recipe
from srft.run.doctor import Check
from srft.training.checkpoint_files import state_folder
from srft.training.rows import read_rows
from srft.training.run_dir import KEYS, RunDir
from srft.training.warnings import TEMPLATE, examined

RECENT = 900.0  # seconds since the last row within which a run without its end may be on its way

Rows = Sequence[Mapping[str, Any]]


def examine(path: Path) -> Iterator[Check]:
    """All findings on the run in a folder.

    Raises:
        SrftError: it holds no run.
    """
    run = RunDir(path)
    if not (path / "recipe.yaml").is_file():
        raise SrftError("it holds no run", where=str(path), fix="Name a run directory, the folder with recipe.yaml.")
    try:
        recipe: Recipe | None = load_recipe(path / "recipe.yaml")
    except SrftError as error:
        recipe = None
        yield Check("bad", "recipe", str(error).replace("\n", " "))
    yield from _files(path)
    rows = [row for row in run.metrics if isinstance(row.get("step"), int) and isinstance(row.get("stage"), int)]
    if rows:
        yield from _steps(run, rows, recipe)
    else:
        yield Check("bad", "steps", "no step was finished")
    yield from _checkpoints(run)
    told = [row for row in run.warnings if row.get("name") == TEMPLATE]
    yield from (Check("bad", TEMPLATE, f"{row.get('text')}. {row.get('advice')}") for row in told)
    for step, warning in examined(rows):
        yield Check("bad", warning.name, f"from step {step}: {warning.text}. {warning.advice}")
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    yield Check("ok", "disk", f"{size / 2**20:.0f} MiB in {path}")


def _files(path: Path) -> Iterator[Check]:
    for name in KEYS:
        if (path / name).exists():
            for fault in read_rows(path / name, KEYS[name]).faults:
                yield Check("bad", name, fault)


def _steps(run: RunDir, rows: Rows, recipe: Recipe | None) -> Iterator[Check]:
    """How far it came, whether rows are missing, and whether it was evaluated at its end."""
    last = rows[-1]
    done = {row["step"] for row in rows}
    if len(rows) != last["step"]:
        missing = islice((step for step in range(1, last["step"]) if step not in done), 5)
        listed = ", ".join(map(str, missing)) or "none"
        yield Check("bad", "steps", f"{len(rows)} rows for {last['step']} steps; missing: {listed}")
    took, steps_left = last.get("step_time"), last.get("steps_left", 0)
    told = f"{last['step']} are done" + (f", the last took {took:.1f} s" if isinstance(took, float) else "")
    stages = len(recipe.parts) if recipe else 1
    if steps_left or last["stage"] < stages:
        left = f"{told}, {steps_left} are left of stage {last['stage']} of {stages}"
        ago = time.time() - (run.path / "metrics.jsonl").stat().st_mtime
        if ago < RECENT:
            yield Check("off", "steps", f"{left}; the last row is {ago:.0f} s old: it may be on its way")
        else:
            yield Check("bad", "steps", f"{left}. To continue: srft train --resume --out {run.path}")
        return
    yield Check("ok", "steps", told)
    evaluation = recipe.parts[-1].evaluation if recipe else None
    if evaluation and (evaluation.benchmarks or evaluation.sets):
        is_there = any(row.get("step") == last["step"] for row in run.evaluations)
        again = f"none at the last step. srft train --resume --out {run.path} makes up for it"
        yield Check("ok", "evaluation", "at the last step") if is_there else Check("bad", "evaluation", again)


def _checkpoints(run: RunDir) -> Iterator[Check]:
    """Whether each can be read, and the newest continued from."""
    for checkpoint in run.checkpoints:
        fault = damage(checkpoint)
        yield Check("bad" if fault else "ok", f"checkpoint {checkpoint.name}", fault or "as it was written")
    if not run.checkpoints:
        yield Check("off", "checkpoints", "none yet")
    elif not (state := state_folder(run.checkpoint)).is_dir():
        yield Check("off", "resuming", f"{state} is gone: the weights can be used, the run cannot be continued")
    elif fault := damage(state):
        yield Check("bad", "resuming", f"{state}: {fault}: the run cannot be continued from it")
