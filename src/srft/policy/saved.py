"""Which checkpoints a run directory holds, and which of them is the run's model."""

from __future__ import annotations

import json
import os
from pathlib import Path

CHECKPOINTS = "checkpoints"
BEST = "best.json"  # in a run directory: {"checkpoint": "step-000060", "metric": "test/avg", "value": 0.5}


def checkpoints_of(run: Path) -> list[Path]:
    """The finished checkpoints of a run directory, oldest first."""
    steps = {path: path.name.removeprefix("step-") for path in run.glob(f"{CHECKPOINTS}/step-*") if path.is_dir()}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def best_of(run: Path) -> Path | None:
    """The checkpoint that was best by `training.best`; None where the recipe has none, or it is gone."""
    try:
        name = json.loads((run / BEST).read_bytes())["checkpoint"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return next((checkpoint for checkpoint in checkpoints_of(run) if checkpoint.name == name), None)


def model_folder(path: str) -> str:
    """The checkpoint that stands for a run directory as a model: its best one if it keeps one, else its newest. Any
    other path is returned as it is.

    Raises:
        ValueError: the run has no checkpoint, or its best one is gone.
    """
    run = Path(os.path.expanduser(path))
    if not os.path.isfile(run / "recipe.yaml") or (run / "config.json").exists():
        return path
    if not (checkpoints := checkpoints_of(run)):
        raise ValueError(f"the run in {path} has no checkpoint yet")
    best = best_of(run)
    if best is None and (run / BEST).exists():
        raise ValueError(f"the checkpoint that {run / BEST} names is gone; name one of {run / CHECKPOINTS}")
    return str(best or checkpoints[-1])


def model_name(path: str) -> str:
    """A short name of a model for files: `x-step-000060` of runs/x/checkpoints/step-000060, else the last part."""
    place = Path(path.replace(":", "-"))
    return f"{place.parents[1].name}-{place.name}" if place.parent.name == CHECKPOINTS else place.name
