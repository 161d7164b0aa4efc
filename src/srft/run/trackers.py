"""The trackers that a recipe names: checked before anything is created, started in the run's name."""

from __future__ import annotations

import importlib.util
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from accelerate import Accelerator

from srft.errors import SrftError
from srft.recipe.merge import leaves
from srft.recipe.schema import Recipe
from srft.training.run_dir import RunDir

WITHOUT_LOGIN = ("offline", "disabled", "dryrun")  # what WANDB_MODE may be


def check_trackers(recipe: Recipe) -> None:
    """Return nothing where every tracker can start.

    Raises:
        SrftError: one is not installed, or Weights & Biases has no login.
    """
    for tracker in recipe.logging.trackers:
        if importlib.util.find_spec(tracker) is None:
            fix = f"pip install 'srft[{tracker}]', or leave it out."
            raise SrftError(f"{tracker} is not installed", where="logging.trackers", fix=fix)
    if "wandb" in recipe.logging.trackers and not _wandb_can_start():
        raise SrftError(
            "Weights & Biases has no login here",
            where="logging.trackers",
            fix="Run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline to upload later by `wandb sync`.",
        )


def start_trackers(recipe: Recipe, accelerator: Accelerator, run_dir: RunDir) -> None:
    """Tell the trackers, where the recipe names any, what is run; their runs are called as the run directory, and what
    they write lies in it."""
    if recipe.logging.trackers:
        accelerator.project_configuration.logging_dir = str(run_dir.path / "tensorboard")
        name = run_dir.path.resolve().name
        options = {"wandb": {"name": name, "dir": str(run_dir.path)}, "trackio": {"name": name}}
        config = {key: _plain(value) for key, value in leaves(recipe.model_dump(mode="json")).items()}
        accelerator.init_trackers(recipe.logging.project, config=config, init_kwargs=options)


def _plain(value: Any) -> int | float | str:
    return value if isinstance(value, int | float | str) else str(value)


def _wandb_can_start() -> bool:
    """Offline, by a key in the environment, or by one that `wandb login` has kept."""
    if os.environ.get("WANDB_MODE", "").lower() in WITHOUT_LOGIN or os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
