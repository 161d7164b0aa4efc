"""The run directory: what a kill leaves of a checkpoint, which ones are kept, and the history of the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from srft import SrftError
from srft.policy.load import ModelSettings
from srft.recipe.load import validated
from srft.training.checkpoint import load_state, save_state
from srft.training.checkpoint_files import state_folder
from srft.training.run_dir import RunDir
from srft.training.settings import BestSettings


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    directory = RunDir(tmp_path / "run")
    directory.create("recipe one", {})
    return directory


def save(run: RunDir, step: int, keep: int = 2) -> None:
    run.begin_checkpoint(step)
    (run.unfinished_checkpoint(step) / "model.safetensors").write_text(str(step))
    save_state(run.unfinished_checkpoint(step), {"step": step})
    run.finish_checkpoint(step, keep)


def test_a_checkpoint_is_the_model_alone_and_the_state_lies_elsewhere(run: RunDir) -> None:
    save(run, 3)
    assert sorted(path.name for path in run.checkpoint.iterdir()) == ["manifest.json", "model.safetensors"]
    assert state_folder(run.checkpoint) == run.path / "trainer/step-000003"
    assert load_state(run.checkpoint) == {"step": 3}


@pytest.mark.parametrize("killed", ["while it was written", "between the two"])
def test_a_kill_leaves_the_checkpoint_before(run: RunDir, killed: str) -> None:
    save(run, 1)
    run.begin_checkpoint(2)
    save_state(run.unfinished_checkpoint(2), {"step": 2})
    if killed == "between the two":
        state_folder(run.unfinished_checkpoint(2)).rename(state_folder(run.checkpoint_at(2)))
    assert run.checkpoint.name == "step-000001"
    assert load_state(run.checkpoint) == {"step": 1}
    save(run, 2)
    assert load_state(run.checkpoint) == {"step": 2}
    for folder in ("checkpoints", "trainer"):
        assert sorted(path.name for path in (run.path / folder).iterdir()) == ["step-000001", "step-000002"]


def test_the_state_is_kept_beside_the_newest_alone(run: RunDir) -> None:
    save(run, 1)
    run.set_best(1, "reward", 0.5)
    for step in (2, 3, 4):
        save(run, step)
    assert [path.name for path in run.checkpoints] == ["step-000001", "step-000003", "step-000004"]
    assert sorted(path.name for path in run.path.glob("trainer/*")) == ["step-000003", "step-000004"]
    assert run.best_checkpoint.name == "step-000001"
    with pytest.raises(SrftError, match="state of the trainer at step-000001 is not there"):
        load_state(run.best_checkpoint)
    run.set_best(4, "reward", 0.7)
    run.keep_checkpoints(1)
    assert [path.name for path in run.checkpoints] == ["step-000004"]


def test_a_run_directory_is_a_model(run: RunDir) -> None:
    """Its best checkpoint if it keeps one, else its newest."""
    with pytest.raises(SrftError, match=r"'path': the run in .* has no checkpoint yet"):
        validated(ModelSettings, {"path": str(run.path)}, "model")
    save(run, 1)
    save(run, 2)
    assert ModelSettings(path=str(run.path)).path == str(run.checkpoint_at(2))
    run.set_best(1, "reward", 0.5)
    assert ModelSettings(path=str(run.path)).path == str(run.checkpoint_at(1))
    assert ModelSettings(path=str(run.checkpoint_at(2))).path == str(run.checkpoint_at(2))


def recipes(run: RunDir) -> dict[str, str]:
    return {file.name: file.read_text() for file in run.path.glob("recipe*.yaml")}


def test_what_the_run_followed_is_kept(run: RunDir) -> None:
    run.rewind(20, 1, "recipe one")
    assert recipes(run) == {"recipe.yaml": "recipe one"}
    run.rewind(40, 1, "recipe two")
    assert recipes(run) == {"recipe.yaml": "recipe two", "recipe-000040.yaml": "recipe one"}
    run.rewind(40, 1, "recipe three")  # no step was made with the second one
    assert recipes(run) == {"recipe.yaml": "recipe three", "recipe-000040.yaml": "recipe one"}
    run.rewind(60, 1, "recipe four")
    history = {"recipe-000040.yaml": "recipe one", "recipe-000060.yaml": "recipe three"}
    assert recipes(run) == {"recipe.yaml": "recipe four", **history}
    run.rewind(30, 1, "recipe five")  # from an older checkpoint
    assert recipes(run) == {"recipe.yaml": "recipe five", "recipe-000030.yaml": "recipe one"}
    run.rewind(30, 1, "recipe one")
    assert recipes(run) == {"recipe.yaml": "recipe one"}


def test_better_is_as_the_mode_says() -> None:
    high, low = BestSettings(metric="a"), BestSettings(metric="a", mode="min")
    assert [high.is_better(value, 0.5) for value in (0.4, 0.5, 0.6, float("nan"))] == [False, False, True, False]
    assert [low.is_better(value, 0.5) for value in (0.4, 0.5, 0.6, float("nan"))] == [True, False, False, False]
    assert high.is_better(0.0, None)
    assert not high.is_better(float("nan"), None)
