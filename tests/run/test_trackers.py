"""Trackers are checked before anything is created, and write where the run does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srft import SrftError, load_recipe, train
from srft.recipe.schema import Recipe
from srft.run.trackers import check_trackers, start_trackers
from srft.training.run_dir import RunDir


def recipe(*trackers: str) -> Recipe:
    return load_recipe("quickstart", [f"logging.trackers=[{','.join(trackers)}]", "training.device=cpu"])


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """wandb is installed, as far as can be seen, and no one has logged in."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_tracker_that_is_not_installed_is_told_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trackio" else there(name))
    with pytest.raises(SrftError, match="trackio is not installed") as error:
        train(recipe("trackio"), tmp_path / "run")
    assert "srft[trackio]" in error.value.fix
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_login")
def test_wandb_needs_a_login_or_to_be_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SrftError, match="no login") as error:
        check_trackers(recipe("wandb"))
    assert "WANDB_MODE=offline" in error.value.fix
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(recipe("wandb"))
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(SrftError, match="no login"):
        check_trackers(recipe("wandb"))
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    check_trackers(recipe("wandb"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    with pytest.raises(SrftError, match="no login"):
        check_trackers(recipe("wandb"))
    monkeypatch.setenv("WANDB_API_KEY", "x")
    check_trackers(recipe("wandb"))


def test_runs_are_called_as_their_directory_and_lie_in_it(tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []
    accelerator: Any = SimpleNamespace(
        project_configuration=SimpleNamespace(logging_dir="elsewhere"),
        init_trackers=lambda project, **options: calls.append({"project": project, **options}),
    )
    start_trackers(recipe("wandb"), accelerator, RunDir(tmp_path / "quickstart-1"))
    (call,) = calls
    assert call["init_kwargs"]["wandb"] == {"name": "quickstart-1", "dir": str(tmp_path / "quickstart-1")}
    assert call["init_kwargs"]["trackio"] == {"name": "quickstart-1"}
    assert accelerator.project_configuration.logging_dir.startswith(str(tmp_path / "quickstart-1"))
    assert call["config"]["optim.lr"] == recipe("wandb").optim.lr
    start_trackers(recipe(), accelerator, RunDir(tmp_path / "quickstart-2"))
    assert len(calls) == 1
