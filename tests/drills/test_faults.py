"""What goes wrong around a run: its disk, its folder, its parent, another run in the same place."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from srft.training.run_dir import RunDir
from tests.drills.compare import differences
from tests.drills.running import ALONE, STEPS, processes_of, running, words

pytestmark = [pytest.mark.drills, pytest.mark.timeout(300)]
# Grades at once until there is a pipe; then says in it that it is at work, and never returns.
HANGS = """
import os, signal

def grade(solution_str):
    if os.path.exists(PIPE):
        with open(PIPE, "w") as pipe:
            pipe.write(f"{os.getpid()}\\n")
        while True:
            signal.pause()
    return float(sum(map(ord, solution_str)) % 2)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "srft-drill", folder], capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", disk], check=True)


def test_a_full_disk_ends_a_run_that_goes_on_once_there_is_room(model: Path, disk: Path, tmp_path: Path) -> None:
    with running(*ALONE, *words(model, tmp_path / "whole")) as run:
        assert run.end(200) == 0, run.output
    with running(*ALONE, *words(model, disk / "run")) as run:
        run.wait_for(f"4/{STEPS}")
        room = os.statvfs(disk)
        (disk / "others").write_bytes(bytes(room.f_bavail * room.f_frsize - 4096))
        assert run.end() == 2
    assert "Traceback" not in run.output
    assert "--resume" in run.output
    assert RunDir(disk / "run").checkpoint.name == "step-000003"
    (disk / "others").unlink()
    with running(*ALONE, "srft", "train", "--resume", "--out", str(disk / "run")) as run:
        assert run.end(200) == 0, run.output
    lines = differences(tmp_path / "whole", disk / "run")
    assert [line for line in lines if not line.startswith("recipe.yaml")] == []


def test_a_read_only_folder_is_told_before_the_run(model: Path, disk: Path) -> None:
    with running(*ALONE, *words(model, disk / "run", "training.steps=3")) as run:
        assert run.end(200) == 0
    remount(disk, "ro")
    resumed = ["srft", "train", "--resume", "--out", str(disk / "run"), "training.steps=6"]
    for command in (words(model, disk / "other"), resumed):
        with running(*ALONE, *command) as run:
            assert run.end(200) == 2
        assert "Read-only file system" in run.output
        assert "Traceback" not in run.output
        assert f"1/{STEPS}" not in run.output


@pytest.mark.parametrize("command", ["train", "eval", "grade"])
def test_no_worker_outlives_its_parent(model: Path, tmp_path: Path, command: str) -> None:
    """Killed while a grader works that never returns."""
    pipe, grader = tmp_path / "pipe", tmp_path / "grader.py"
    grader.write_text(f"PIPE = {str(pipe)!r}\n{HANGS}")
    function = [f"verify.function={grader}:grade", "verify.timeout=200", "verify.function_timeout=200"]
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"gold": "1", "candidate": "1"}\n' * 8)
    evaluated = f"{cases.with_name('problems.jsonl')}"
    Path(evaluated).write_text('{"prompt": "1+1", "answer": "2"}\n' * 8)
    commands = {
        "train": words(model, tmp_path / "run", *function),
        "eval": ["srft", "eval", f"{model}/model", "--benchmarks", evaluated, "--out", str(tmp_path / "eval"),
                 "sampling.max_response_length=8", "sampling.n=2", "template=chat", *function],
        "grade": ["srft", "grade", "--file", str(cases), "--function", f"{grader}:grade", "--timeout", "200"],
    }  # fmt: skip
    if command != "train":
        os.mkfifo(pipe)
    with running(*ALONE, *commands[command]) as run:
        if command == "train":
            run.wait_for(f"2/{STEPS}")
            os.mkfifo(pipe)
        with pipe.open() as calls:
            assert int(calls.readline()) in [process.pid for process in run.descendants()]
        run.send(signal.SIGKILL)
        run.end()
        try:
            _, alive = psutil.wait_procs(processes_of(tmp_path), timeout=10)
            assert alive == []
            assert processes_of(tmp_path) == []  # nor a new one
        finally:
            for process in processes_of(tmp_path):
                process.kill()


def test_two_runs_do_not_share_a_folder(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(*ALONE, *words(model, out, "training.steps=500")) as one:
        one.wait_for("4/500")
        with running(*ALONE, "srft", "train", "--resume", "--out", str(out)) as other:
            assert other.end(200) == 2
        assert str(one.process.pid) in other.output
        assert "Traceback" not in other.output
        one.send(signal.SIGTERM)
        one.end()
    steps = [row["step"] for row in RunDir(out).metrics]
    assert steps == list(range(1, len(steps) + 1))
