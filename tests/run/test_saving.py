"""Checkpoints of whole runs: a full disk, writing beside the training, an evaluation that a kill cut in two."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from srft import SrftError, load_recipe, train
from srft.policy.manifest import damage
from srft.recipe.schema import Recipe
from srft.run.estimate import check_size, estimate_on
from srft.run.sizing.hardware import GPUS
from srft.run.sizing.setup import Lengths
from srft.training import disk
from srft.training.checkpoint import load_state
from srft.training.checkpoint_files import state_folder
from srft.training.loop import Loop
from srft.training.run_dir import RunDir
from srft.training.saving import Saver
from tests.helpers import SMALL, python, weights

Mount = Callable[[str], None]


def short(*overrides: str) -> Recipe:
    """Three steps, each saved."""
    changes = ["method.name=sft", "training.steps=3", "training.checkpoint_every=1", "evaluation.sets={}"]
    return load_recipe("quickstart", [*SMALL, *changes, *overrides])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Mount]]:
    """A file system of its own, and what mounts it again with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        result = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if result.returncode:
            pytest.skip("mounting a tmpfs is not permitted here")

    mount("size=128m")
    try:
        yield folder, lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Take the room that is left, to the last byte."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
    except OSError:
        return filler
    raise AssertionError


def size(*folders: Path) -> int:
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("behind", ["false", "true"])
def test_a_full_disk_ends_the_run_with_its_last_checkpoint_whole(
    small_disk: tuple[Path, Mount], monkeypatch: pytest.MonkeyPatch, behind: str
) -> None:
    folder, mount = small_disk
    monkeypatch.setattr(sys.modules["srft.run.train"], "check_size", lambda size, out: None)  # it would not begin
    recipe = short("training.checkpoint_async=" + behind)
    train(short("training.steps=1"), folder / "first")
    one = size(folder / "first/checkpoints", folder / "first/trainer")
    mount(f"size={size(folder) + 2 * one + one // 2}")
    with pytest.raises(
        SrftError, match=r"the disk is full: step-00000\d takes about \d+ MiB, \d+ MiB are free"
    ) as caught:
        train(recipe, folder / "run")
    assert "--resume" in caught.value.fix
    run = RunDir(folder / "run")
    saved = [checkpoint.name for checkpoint in run.checkpoints]
    assert saved == ["step-000001", "step-000002"]
    assert all(damage(part) == "" for c in run.checkpoints for part in (c, state_folder(c)))
    assert not [path for path in run.path.rglob("*") if path.suffix in (".partial", ".removed")]
    mount("size=128m")
    resumed = train(out=folder / "run", resume=True)
    assert [row["step"] for row in resumed.metrics] == [1, 2, 3]


def test_a_full_disk_is_waited_for(small_disk: tuple[Path, Mount], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it fills up: before a step's row, before a checkpoint, before an evaluation's responses."""
    folder, _ = small_disk
    plain = train(short("training.steps=2"), folder / "plain")
    said: list[str] = []
    fillers: list[Path] = []

    def filled_before(name: str, owner: type) -> None:
        act = getattr(owner, name)

        def full(*args: Any, **kwargs: Any) -> Any:
            fillers.append(fill(folder))
            return act(*args, **kwargs)

        monkeypatch.setattr(owner, name, full)

    for name in ("report", "save", "evaluate"):
        filled_before(name, Loop)
    monkeypatch.setattr(disk, "time", SimpleNamespace(sleep=lambda seconds: fillers[-1].unlink()))
    monkeypatch.setattr("srft.training.display.Display.say", lambda self, text: said.append(text))
    evaluated = ["evaluation.sets.test.path=srft:arithmetic/test.jsonl", "evaluation.sets.test.limit=2"]
    run = train(short("training.steps=2", "training.disk_full=wait", *evaluated), folder / "run")
    waits = [line for line in said if "Waiting for room" in line]
    assert [re.findall(r"full: (.*?) (?:takes|does)", line)[0] for line in waits] == [
        "an evaluation", "step 1", "step-000001", "step 2", "step-000002", "an evaluation",
    ]  # fmt: skip
    assert [row["step"] for row in run.evaluations] == [0, 2]
    assert [row["step"] for row in run.metrics] == [1, 2]
    one, other = weights(plain.directory.checkpoint), weights(run.directory.checkpoint)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_row_is_written_whole_or_not_at_all(small_disk: tuple[Path, Mount]) -> None:
    run = RunDir(small_disk[0])
    run.append("metrics.jsonl", {"step": 1})
    fill(small_disk[0])
    with pytest.raises(OSError, match="No space left"):
        run.append("metrics.jsonl", {"step": 2, "text": "x" * 100_000})
    assert run.path.joinpath("metrics.jsonl").read_text() == '{"step": 1}\n'


def test_a_folder_that_cannot_be_written_is_told_before_the_run(small_disk: tuple[Path, Mount]) -> None:
    folder, mount = small_disk
    mount("ro,size=128m")
    with pytest.raises(SrftError, match=r"cannot write there: .*Read-only file system"):
        train(short(), folder / "run")


def test_checkpoints_written_beside_the_training_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["method.name=relift", "hooks.buffer.size=2", "rollout.n=2", "model.lora.rank=2"]
    changes += ["training.steps=2"]
    at_once = train(short(*changes), tmp_path / "one").directory
    behind: list[bool] = []
    save = Saver.save
    monkeypatch.setattr(
        Saver, "save", lambda self, c, behind_=None, **k: (behind.append(k["behind"]), save(self, c, **k))[1]
    )
    later = train(short(*changes, "training.checkpoint_async=true"), tmp_path / "two").directory
    assert behind == [True, False]  # the last one is waited for
    for one, two in zip(at_once.checkpoints, later.checkpoints, strict=True):
        assert load_state(one) == load_state(two)
        for ours, theirs in ((one, two), (state_folder(one), state_folder(two))):
            assert damage(theirs) == ""
            files = [sorted(folder.rglob("*.safetensors")) for folder in (ours, theirs)]
            for mine, other in zip(*files, strict=True):
                a, b = load_file(mine), load_file(other)
                assert a.keys() == b.keys()
                assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_of_several_processes_the_first_writes_beside_the_training(tmp_path: Path) -> None:
    """And one process alone goes on from what it wrote."""
    whole = train(short(), tmp_path / "one")
    changes = ["method.name=sft", "training.steps=3", "training.checkpoint_every=1", "evaluation.sets={}"]
    launched = python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "srft", "train", "quickstart",
        *SMALL, *changes, "training.checkpoint_async=true", "--out", tmp_path / "two",
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr[-3000:]
    shutil.rmtree(tmp_path / "two/checkpoints/step-000003")
    two = train(out=tmp_path / "two", resume=True)
    assert [row["step"] for row in two.metrics] == [1, 2, 3]
    one, other = weights(whole.directory.checkpoint), weights(two.directory.checkpoint)
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-4)


def test_what_is_sharded_is_not_written_beside_the_training() -> None:
    with pytest.raises(SrftError, match="checkpoint_async"):
        short("training.checkpoint_async=true", "training.shard=true")


def test_the_size_of_a_resumed_run_counts_its_checkpoints_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = short()
    needed = estimate_on(recipe, Lengths.assumed(recipe), GPUS["h200"])
    usage = namedtuple("usage", "total used free")
    room = int(needed.disk)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(room, 0, room - size(tmp_path)))
    check_size(needed, tmp_path)
    run = RunDir(tmp_path)
    for step in (1, 2):
        run.begin_checkpoint(step)
        (run.unfinished_checkpoint(step) / "model.safetensors").write_bytes(bytes(room // 4))
        run.finish_checkpoint(step, keep=2)
    check_size(needed, tmp_path)
    (tmp_path / "another.bin").write_bytes(bytes(1 << 20))
    with pytest.raises(SrftError, match=r"checkpoints take up to .* are free there besides .* of this run's own"):
        check_size(needed, tmp_path)


def test_an_evaluation_of_which_a_kill_left_one_set_is_made_up(tmp_path: Path) -> None:
    sets = ["training.steps=1", "evaluation.at_start=false"]
    whole = train(load_recipe("quickstart", [*SMALL, "method.name=sft", *sets]), tmp_path / "run")
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.evaluations]
    assert [row["benchmark"] for row in rows] == ["test", "ood"]
    file = tmp_path / "run/evaluations.jsonl"
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    again = train(out=tmp_path / "run", resume=True)
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in again.evaluations] == rows


KILLED = """
import os, signal, sys
from importlib import import_module
from srft import load_recipe, train

module, name, function, calls, out, *changes = sys.argv[1:]
owner, left = getattr(import_module(module), name), int(calls)
act = getattr(owner, function)

def killed(*args, **kwargs):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return act(*args, **kwargs)

setattr(owner, function, killed)
train(load_recipe("quickstart", changes), out)
"""


@pytest.mark.drills
@pytest.mark.parametrize(
    ("owner", "function", "calls"),
    [
        pytest.param("srft.evaluation.evaluator Evaluator", "run", 2, id="before the evaluation of step 1"),
        pytest.param("srft.evaluation.evaluator Evaluator", "run", 3, id="before the last evaluation"),
        pytest.param("srft.evaluation.records RecordFile", "append", 6, id="between two sets of the last one"),
        pytest.param("srft.training.run_dir RunDir", "append", 5, id="after the last responses"),
    ],
)
def test_a_kill_around_an_evaluation_loses_nothing(tmp_path: Path, owner: str, function: str, calls: int) -> None:
    """Killed between saving and evaluating, or in the evaluation, a resumed run is the run that was not killed."""
    changes = [*SMALL, "training.checkpoint_every=1", "evaluation.every=1"]
    whole = train(load_recipe("quickstart", changes), tmp_path / "whole")
    killed = python("-c", KILLED, *owner.split(), function, str(calls), tmp_path / "run", *changes)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = train(out=tmp_path / "run", resume=True)

    def rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        times = ("seconds", "step_time", "tokens_per_second")
        return [{k: v for k, v in row.items() if not k.startswith(times)} for row in rows]

    assert rows(resumed.evaluations) == rows(whole.evaluations)
    assert rows(resumed.metrics) == rows(whole.metrics)
    one, other = weights(whole.directory.checkpoint), weights(resumed.directory.checkpoint)
    assert all(torch.equal(one[key], other[key]) for key in one)
