"""Which checkpoints a run directory holds, and which of them is the run's model."""

from __future__ import annotations

import json
from pathlib import Path

CHECKPOINTS = "checkpoints"
BEST = "best.json"  # in a run directory: {"checkpoint": "step-000060", "metric": "test/avg", "value": 0.5}


def checkpoints_of(run: Path) -> list[Path]:
    """The finished checkpoints of a run directory, oldest first."""
    return sorted(run.glob(f"{CHECKPOINTS}/step-*[0-9]"))


def best_of(run: Path) -> Path | None:
    """The checkpoint that was best by `training.best`; None where the recipe has none, or it is gone."""
    if not (run / BEST).is_file():
        return None
    checkpoint = run / CHECKPOINTS / json.loads((run / BEST).read_text(encoding="utf-8"))["checkpoint"]
    return checkpoint if checkpoint.is_dir() else None


def model_folder(path: str) -> str:
    """The checkpoint that stands for a run directory as a model: its best one if it keeps one, else its newest. Any
    other path is returned as it is.

    Raises:
        ValueError: the run has no checkpoint.
    """
    run = Path(path).expanduser()
    if not (run / "recipe.yaml").is_file() or (run / "config.json").exists():
        return path
    checkpoint = best_of(run) or next(iter(checkpoints_of(run)[::-1]), None)
    if checkpoint is None:
        raise ValueError(f"the run in {path} has no checkpoint yet")
    return str(checkpoint)


def model_name(path: str) -> str:
    """A short name of a model for files: `x-step-000060` of runs/x/checkpoints/step-000060, else the last part."""
    place = Path(path.replace(":", "-"))
    return f"{place.parents[1].name}-{place.name}" if place.parent.name == CHECKPOINTS else place.name
