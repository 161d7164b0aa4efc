"""Checkpoints that prove themselves: every fault of every file is told by its name, and the last good one is taken."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from srft import SrftError
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, load_config, load_model, load_tokenizer
from srft.policy.manifest import damage, write_manifest
from srft.training.checkpoint import load_state, load_tensors, save_state, save_tensors
from srft.training.checkpoint_files import state_folder
from srft.training.run_dir import RunDir


def flip(file: Path) -> None:
    """One bit."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def zero_page(file: Path) -> None:
    """Of 4 kB, as a disk without a journal may leave one."""
    content = bytearray(file.read_bytes())
    start = len(content) // 2 // 4096 * 4096
    page = content[start : start + 4096]
    content[start : start + 4096] = bytes(len(page)) if any(page) else b"\x01" * len(page)
    file.write_bytes(content)


def halve(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


FAULTS: list[Callable[[Path], None]] = [flip, zero_page, halve, empty, Path.unlink]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with two checkpoints of a real model."""
    run = RunDir(tmp_path_factory.mktemp("damage") / "run")
    run.create("name: x", {})
    settings = ModelSettings(path="srft:model")
    policy, tokenizer = Policy(load_model(settings)), load_tokenizer(settings)
    for step in (1, 2):
        run.begin_checkpoint(step)
        folder = run.unfinished_checkpoint(step)
        policy.save(folder, tokenizer)
        save_state(folder, {"step": step, "hooks": {"buffer": {"waiting": [3, 1]}}})
        save_tensors(folder, {"optimizer/policy/w/exp_avg": torch.full((1024,), float(step))})
        run.finish_checkpoint(step, keep=2)
    return run


@pytest.fixture
def run(saved: RunDir, tmp_path: Path) -> RunDir:
    shutil.copytree(saved.path, tmp_path / "run")
    return RunDir(tmp_path / "run")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_nothing_is_said_of_what_is_as_it_was_written(run: RunDir) -> None:
    said: list[str] = []
    run.set_aside_damaged(said.append)
    assert said == []
    (run.checkpoint / "README.md").write_text("A note of the user's own.")
    run.set_aside_damaged(said.append)
    assert said == []
    assert load_state(run.checkpoint) == {"step": 2, "hooks": {"buffer": {"waiting": [3, 1]}}}
    load_tensors(run.checkpoint, {"optimizer/policy/w/exp_avg": (read := torch.zeros(1024))})
    assert read.eq(2).all()
    load_model(ModelSettings(path=str(run.checkpoint)))


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_every_file_is_told(run: RunDir, fault: Callable[[Path], None]) -> None:
    """Of the newest checkpoint: a resumed run goes on from the one before."""
    newest = run.checkpoint
    folders = {newest: "", state_folder(newest): "trainer/step-000002/"}
    names = [(folder, name) for folder in folders for name in files(folder)]
    assert len(names) >= 8
    for folder, name in names:
        whole = shutil.copytree(run.path, run.path.parent / "whole")
        fault(folder / name)
        said: list[str] = []
        run.set_aside_damaged(said.append)
        culprit = f"step-000002 is damaged ({folders[folder]}{name}"
        assert len(said) == 1
        assert said[0].endswith("set aside: continuing from step-000001")
        # a manifest with another digit is told from a file that differs from it by nothing
        assert said[0].startswith(culprit) or name == "srft-manifest.json"
        assert (" bytes, not " in said[0]) == (fault in (halve, empty)) or name == "srft-manifest.json"
        assert run.checkpoint.name == "step-000001"
        assert (run.path / "checkpoints/step-000002.damaged").is_dir()
        assert (run.path / "trainer/step-000002.damaged").is_dir()
        shutil.rmtree(run.path)
        whole.rename(run.path)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_model_is_not_loaded(run: RunDir, fault: Callable[[Path], None]) -> None:
    for name in files(run.checkpoint):
        file = run.checkpoint / name
        content = file.read_bytes()
        fault(file)
        if not (name == "srft-manifest.json" and fault is Path.unlink):  # then it is a model as any other
            for load in (load_config, load_tokenizer, load_model):
                with pytest.raises(SrftError, match=r"step-000002: damaged: ") as caught:
                    load(ModelSettings(path=str(run.path)))
                assert name in str(caught.value)
        file.write_bytes(content)


def test_older_checkpoints_are_tried_in_turn(run: RunDir) -> None:
    run.set_best(2, "reward", 0.5)
    shutil.rmtree(state_folder(run.checkpoint))
    said: list[str] = []
    run.set_aside_damaged(said.append)
    line = "step-000002 is damaged (the state of the trainer is missing) and set aside: continuing from step-000001"
    assert said == [line]
    assert run.best == {}
    flip(run.checkpoint / "config.json")
    with pytest.raises(
        SrftError, match=r"no checkpoint can be continued from: step-000001 \(config.json: checksum"
    ) as e:
        run.set_aside_damaged(said.append)
    assert "Start anew in another folder" in e.value.fix
    assert run.checkpoint.name == "step-000001"


def test_what_a_manifest_says_stays_in_its_folder(tmp_path: Path) -> None:
    """A stranger's manifest is read and not trusted."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("w")
    (tmp_path / "outside").write_text("o")
    write_manifest(tmp_path / "model")
    assert damage(tmp_path / "model") == ""
    manifest = tmp_path / "model/srft-manifest.json"
    written = manifest.read_text()
    manifest.write_text(written.replace('"weights"', '"../outside"'))
    assert damage(tmp_path / "model") == "../outside: missing"
    for wrong in (
        "",
        "[]",
        "[" * 100_000,
        '{"files": 1}',
        '{"files": {"weights": {"bytes": "1", "sha256": null}}}',
        "\0",
    ):
        manifest.write_text(wrong)
        assert damage(tmp_path / "model").startswith("srft-manifest.json: malformed"), wrong


DISK_CALLS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """A process that saves its third checkpoint is killed before its n-th call that changes the disk, for every n."""
    first = RunDir(tmp_path / "first")
    first.create("name: x", {})
    for step in (1, 2):
        tiny_checkpoint(first, step)
    first.set_best(2, "reward", 0.5)
    deaths = 0
    while True:
        run = RunDir(tmp_path / f"run-{deaths}")
        shutil.copytree(first.path, run.path)
        pid = os.fork()
        if pid == 0:
            try:
                killed_before(deaths)
                tiny_checkpoint(run, 3)
                run.set_best(3, "reward", 0.7)
                run.keep_checkpoints(1)
            finally:
                os._exit(0)
        status = os.waitpid(pid, 0)[1]
        said: list[str] = []
        run.set_aside_damaged(said.append)
        assert said == []
        assert run.checkpoint.name in ("step-000002", "step-000003")
        assert run.best_checkpoint.name in ("step-000002", "step-000003")
        assert all(damage(checkpoint) == "" for checkpoint in run.checkpoints), deaths
        tiny_checkpoint(run, 4)
        assert all(path.suffix == "" for path in run.path.glob("*/step-*"))
        if os.WIFEXITED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        deaths += 1
    assert deaths > 20
    assert run.best_checkpoint.name == "step-000003"


def tiny_checkpoint(run: RunDir, step: int) -> None:
    run.begin_checkpoint(step)
    folder = run.unfinished_checkpoint(step)
    (folder / "model.safetensors").write_text(str(step))
    save_state(folder, {"step": step})
    run.finish_checkpoint(step, keep=2)


def killed_before(calls: int) -> None:
    """Make this process kill itself before one of its calls that change the disk."""
    left = calls

    def counted(act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return act(*args, **kwargs)

        return call

    for name in DISK_CALLS:
        setattr(os, name, counted(getattr(os, name)))
