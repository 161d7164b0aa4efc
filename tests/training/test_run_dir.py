"""The run directory: what a kill leaves of a checkpoint, which ones are kept, and the history of the recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from srft import SrftError
from srft.data.files import write_rows
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
    assert sorted(path.name for path in run.checkpoint.iterdir()) == ["model.safetensors", "srft-manifest.json"]
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


def test_what_a_kill_left_half_removed_is_gone_when_the_run_goes_on(run: RunDir) -> None:
    save(run, 2)
    for name in ("step-000001.removed", "step-000003.partial"):
        for place in ("checkpoints", "trainer"):
            (run.path / place / name).mkdir()
    run.rewind(2, 1, "recipe one")
    assert [path.name for path in run.path.glob("*/step-*")] == ["step-000002"] * 2


@pytest.mark.parametrize("named", [False, True])
def test_a_first_checkpoint_that_is_removed_was_never_saved(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """Killed in its writing, and again after each removal of it: the run still begins anew."""
    run.begin_checkpoint(1)
    partial, final = run.unfinished_checkpoint(1), run.checkpoint_at(1)
    if named:
        state_folder(partial).rename(state_folder(final))
    removed, remove = [], shutil.rmtree

    def watched(folder: Path, **how: bool) -> None:
        remove(folder, **how)
        removed.append(run.never_saved)

    monkeypatch.setattr(shutil, "rmtree", watched)
    assert run.never_saved
    run.remove_unfinished()
    assert len(removed) >= 2
    assert all(removed)


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


def test_a_run_that_begins_anew_forgets_its_first_evaluation(run: RunDir) -> None:
    """Which may have been of another recipe."""
    write_rows(run.path / "evaluations.jsonl", [{"step": 0, "benchmark": "a"}])
    run.evaluation(0).mkdir(parents=True)
    run.append("metrics.jsonl", {"step": 1})
    run.rewind(-1, 0, "recipe two")
    assert (run.evaluations, run.metrics, run.evaluation(0).exists()) == ([], [], False)
    assert recipes(run) == {"recipe.yaml": "recipe two"}


def test_what_is_wrong_with_rows_is_told(run: RunDir) -> None:
    """And the file is kept as it was, before its rows are written anew."""
    lines = [
        '{"step": 1, "stage": 1}',
        '{"step": 3, "sta',
        "null",
        '{"step": 5, "stage": 1}',
        '{"step": 4, "stage": 1}',
        '{"step": 5, "stage": 1, "reward": 1}',
        '{"step": 9, "stage": 1}',
        '{"step": 10, "stag',
    ]
    (run.path / "metrics.jsonl").write_text("\n".join(lines))
    evaluations = [{"step": 0, "benchmark": "a"}, {"step": 0, "benchmark": "b"}, {"step": 9, "benchmark": "a"}]
    write_rows(run.path / "evaluations.jsonl", evaluations)
    assert run.rewind(8, 1, "recipe one") == [
        "metrics.jsonl:2 is no row of this run (torn, or another program's): it is left out",
        "metrics.jsonl:3 is no row of this run (torn, or another program's): it is left out",
        "metrics.jsonl:5: step 4 stands after step 5: they are put in order",
        "metrics.jsonl:6 is a second row of step 5: it takes the place of the first",
        "metrics.jsonl as it was is kept as metrics.jsonl.damaged",
        "metrics.jsonl has no row of step 2-3, 6-8",
    ]
    assert (run.path / "metrics.jsonl.damaged").read_text() == "\n".join(lines)
    rows = [{"step": 1, "stage": 1}, {"step": 4, "stage": 1}, {"step": 5, "stage": 1, "reward": 1}]
    assert [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()] == rows
    assert run.metrics == rows
    assert run.evaluations == evaluations[:2]


def test_a_line_that_a_kill_cut_is_no_fault(run: RunDir) -> None:
    for rest in ("", '{"step": 2, "rew', '{"step": 2}'):
        (run.path / "metrics.jsonl").write_text('{"step": 1}\n' + rest)
        assert run.rewind(1, 1, "recipe one") == []
        assert (run.path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_what_the_run_did_not_write_is_left_alone(run: RunDir) -> None:
    strange = [
        "rollouts/step-abc.jsonl", "rollouts/step-000009.txt", "rollouts/notes", "evaluations/step-", "evaluations/step-x",
        "recipe-mine.yaml", "recipe-.yaml", "inputs-old.json", "selection-best.jsonl",
    ]  # fmt: skip
    for name in strange:
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text("mine")
    (run.path / "recipe-000007.yaml").mkdir()  # a folder where a file is due
    (run.path / "rollouts/step-000009.jsonl").mkdir()
    (run.path / "evaluations/step-000009").write_text("a file where a folder is due")
    run.save_rollouts(10, [])
    run.rewind(2, 1, "recipe two")
    left = {str(file.relative_to(run.path)) for file in run.path.rglob("*")}
    assert left >= {*strange, "recipe-000007.yaml", "recipe-000002.yaml"}
    assert not left & {"rollouts/step-000009.jsonl", "evaluations/step-000009", "rollouts/step-000010.jsonl"}


def test_better_is_as_the_mode_says() -> None:
    high, low = BestSettings(metric="a"), BestSettings(metric="a", mode="min")
    assert [high.is_better(value, 0.5) for value in (0.4, 0.5, 0.6, float("nan"))] == [False, False, True, False]
    assert [low.is_better(value, 0.5) for value in (0.4, 0.5, 0.6, float("nan"))] == [True, False, False, False]
    assert high.is_better(0.0, None)
    assert not high.is_better(float("nan"), None)
