"""What happens to the graders' processes: their parent is killed, they are killed, they never start or never reply."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from srft import Callback, Run, SrftError, load_recipe, train
from srft.data import Problem
from srft.verify import Verifier, process
from srft.verify.timeouts import TimeoutLimit

FUNCTIONS = """
import ctypes, os, subprocess, sys, time


def hangs(solution_str):
    with open(FIFO, "w") as fifo:
        subprocess.Popen(["sleep", "300"])
        fifo.write("grading")
    while True:
        pass


def segfaults(completions):
    ctypes.string_at(0)


def leaves(solution_str):
    os._exit(3)


def exits(solution_str):
    sys.exit("no more")


def hides(solution_str):
    if "hang" in solution_str:
        time.sleep(60)
    return 1.0
"""

TRAINER = """
import sys
from srft.data import Problem
from srft.verify import Verifier
with Verifier(1, timeout=200, rewards={sys.argv[1]: 1.0}) as verifier:
    verifier.grade([(Problem("q", "2"), "2")])
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    file = tmp_path / "functions.py"
    file.write_text(f"FIFO = {str(tmp_path / 'fifo')!r}\n{FUNCTIONS}")
    return file


def items(count: int, text: str = "a") -> list[tuple[Problem, str]]:
    return [(Problem("q", "42"), text)] * count


def workers_of(parent: int) -> Iterator[psutil.Process]:
    for one in psutil.process_iter(["cmdline"]):
        if "srft.verify.worker" in (words := one.info["cmdline"] or []) and words[-1] == str(parent):
            yield one


def test_nothing_is_left_of_a_killed_trainer(functions: Path) -> None:
    """Not the worker, nor the child that hangs, nor what that had started; and nothing forks any more."""
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, f"{functions}:hangs"])
    assert (functions.parent / "fifo").read_text() == "grading"
    below = psutil.Process(trainer.pid).children(recursive=True)
    assert {p.name() for p in below} >= {"sleep"}
    assert len(below) == 3
    trainer.kill()
    trainer.wait()
    assert psutil.wait_procs(below, timeout=10)[1] == []
    assert list(workers_of(trainer.pid)) == []


def test_a_child_ends_with_its_worker(functions: Path) -> None:
    """Both killed at once, trainer and worker: nobody is left to end the child but the system."""
    if sys.platform != "linux":
        pytest.skip("elsewhere it ends by its alarm, half a minute after the call's deadline")
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, f"{functions}:hangs"])
    assert (functions.parent / "fifo").read_text() == "grading"
    (worker,) = psutil.Process(trainer.pid).children()
    (child,) = worker.children()
    (sleep,) = child.children()
    trainer.send_signal(signal.SIGSTOP)  # it does not see the worker's end
    worker.kill()
    assert psutil.wait_procs([child], timeout=10)[1] == []
    sleep.kill()
    trainer.kill()
    trainer.wait()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hides", r"2 of 2 responses before the run: it did not return within 0\.5 s"),
        ("segfaults", r"2 of 2 .* its process ended with signal 11 \(SIGSEGV\)"),
        ("leaves", "2 of 2 .* its process ended with exit code 3"),
        ("exits", "SystemExit: no more"),
    ],
)
def test_a_function_that_never_returns_is_told_before_the_run(functions: Path, name: str, words: str) -> None:
    spec = f"{functions}:{name}"
    options: dict[str, Any] = {"timeout": 0.5, "function_timeout": 0.5}
    with Verifier(2, rewards={spec: 1.0}, **options) as verifier, pytest.raises(SrftError, match=words) as error:
        verifier.check_functions(items(2, "hang"))
    assert error.value.where == spec


def test_a_run_whose_function_dies_does_not_start(functions: Path, tmp_path: Path) -> None:
    recipe = load_recipe("quickstart-grpo", [f"verify.function={functions}:segfaults", "evaluation.sets={}"])
    with pytest.raises(SrftError, match=r"4 of 4 .*SIGSEGV"):
        train(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("os._exit(3)", "ended 3 times before the first call, with exit code 3"),
        ("ctypes.string_at(0)", "ended 3 times before the first call, with signal 11"),
        ("sys.exit()", "SystemExit"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told(functions: Path, line: str, words: str) -> None:
    functions.write_text(f"{functions.read_text()}\n{line}\n")
    with Verifier(1, rewards={f"{functions}:hides": 1.0}) as verifier, pytest.raises(SrftError, match=words):
        verifier.check_functions(items(2))


def test_a_slow_import_is_no_answers_fault(functions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    functions.write_text(f"{functions.read_text()}\ntime.sleep(1)\n")
    with Verifier(1, timeout=0.5, rewards={f"{functions}:hides": 1.0}) as verifier:
        grades = verifier.grade([*items(1), *items(1, "hang"), *items(1)])  # the second is killed, and all read anew
        assert [grade.verdict.value for grade in grades] == ["right", "timeout", "right"]
        assert grades[1].failure == "hides: it did not return within 0.5 s"
    monkeypatch.setattr(process, "START_TIMEOUT", 0.3)
    words = r"functions\.py:hides: it was not imported within 0\.3 s"
    with Verifier(1, rewards={f"{functions}:hides": 1.0}) as verifier, pytest.raises(SrftError, match=words):
        verifier.check_functions(items(1))


def fragile_python(folder: Path, kills: int) -> str:
    """A Python that is killed the first so many times that it starts."""
    file = folder / "python"
    file.write_text(
        f'#!/bin/sh\necho x >> {folder}/starts\n[ $(wc -l < {folder}/starts) -le {kills} ] && kill -9 $$\nexec "{sys.executable}" "$@"\n'
    )
    file.chmod(0o755)
    return str(file)


def test_a_worker_killed_as_it_starts_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, Verifier(1) as verifier:
        patch.setattr(sys, "executable", fragile_python(tmp_path, 2))
        assert verifier.grade([(Problem("q", "x+1"), "\\boxed{1+x}")])[0].verdict == "right"
    with monkeypatch.context() as patch, Verifier(1) as verifier:
        patch.setattr(sys, "executable", fragile_python(tmp_path, 99))
        with pytest.raises(SrftError, match=r"did not start in 3 attempts: signal 9 \(SIGKILL"):
            verifier.grade([(Problem("q", "x+1"), "\\boxed{1+x}")])


@pytest.mark.parametrize("whole", [True, False])
def test_a_worker_killed_in_a_call_costs_no_verdict(functions: Path, whole: bool) -> None:
    """The worker with its child, or the child alone; on its second attempt the function returns."""
    functions.write_text(
        f"{functions.read_text()}\nimport pathlib\nagain = pathlib.Path(__file__).with_name('again')\n"
    )
    functions.write_text(
        functions.read_text() + "def hangs_once(solution_str):\n    if again.exists():\n        return 1.0\n"
        "    again.touch()\n    return hangs(solution_str)\n"
    )
    with Verifier(1, timeout=60, rewards={f"{functions}:hangs_once": 1.0}) as verifier:
        begun: list[psutil.Process] = []

        def kill() -> None:
            (functions.parent / "fifo").read_text()
            (worker,) = psutil.Process().children()
            begun.extend(worker.children(recursive=True))
            (worker if whole else worker.children()[0]).kill()

        killer = threading.Thread(target=kill)
        killer.start()
        grades = verifier.grade(items(1))
        killer.join()
        assert [grade.verdict.value for grade in grades] == ["right"]
    assert psutil.wait_procs(begun, timeout=10)[1] == []


def test_closing_waits_for_no_call(functions: Path) -> None:
    verifier = Verifier(1, timeout=200, rewards={f"{functions}:hangs": 1.0})
    with ThreadPoolExecutor(1) as threads:
        grades = threads.submit(verifier.grade, items(3))
        assert (functions.parent / "fifo").read_text() == "grading"
        began = time.monotonic()
        verifier.close()
        with pytest.raises(SrftError, match="closed while it graded"):
            grades.result()
    assert time.monotonic() - began < 20
    assert psutil.Process().children() == []


def test_too_many_timeouts_stop_the_run(functions: Path) -> None:
    spec = f"{functions}:leaves"
    words = r"(?s)max_timeouts: 0\.5: 32 of 32 responses .* 32 of them: leaves: its process ended with exit code 3"
    with Verifier(2, rewards={spec: 1.0}, max_timeouts=0.5) as verifier:
        assert {grade.verdict.value for grade in verifier.grade(items(16))} == {"timeout"}  # too few to tell
        with pytest.raises(SrftError, match=words):
            verifier.grade(items(16))
    with Verifier.of(load_recipe("quickstart", ["verify.max_timeouts=null", f"verify.function={spec}"]).verify) as any:
        assert len(any.grade(items(40))) == 40


@pytest.mark.drills
def test_a_run_stopped_by_its_function_goes_on_where_it_was(functions: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    functions.write_text(
        f"{functions.read_text()}\ndef breaks(completions):\n    if os.path.exists({str(broken)!r}):\n"
        "        os._exit(3)\n    return [len(c) for c in completions]\n"
    )

    class Break(Callback):
        def on_step(self, step: int, metrics: Mapping[str, Any], run: Run) -> None:
            broken.touch()

    changes = ["steps=2", "prompts_per_step=8", "checkpoint_every=1", "device=cpu"]
    small = [
        f"verify.function={functions}:breaks",
        "evaluation.sets={}",
        "rollout.n=4",
        "rollout.max_response_length=8",
    ]
    recipe = load_recipe("quickstart-grpo", [*small, *(f"training.{change}" for change in changes)])
    with pytest.raises(SrftError, match=r"32 of 32 responses could not be graded; .*breaks: .*exit code 3"):
        train(recipe, out=tmp_path / "run", callbacks=[Break()])
    broken.unlink()
    run = train(out=tmp_path / "run", resume=True)
    assert [row["step"] for row in run.metrics] == [1, 2]
    assert [row["verdict/timeout"] for row in run.metrics] == [0, 0]


def test_the_share_is_of_what_is_graded_together_or_last() -> None:
    failure, healthy = "it did not return within 5 s", TimeoutLimit(0.5)
    healthy.check([failure] * 50 + [""] * 50)
    for _ in range(40):  # a hard group in two
        healthy.check([failure] * 8)
        healthy.check([""] * 8)
    with pytest.raises(SrftError, match="51 of 100"):
        TimeoutLimit(0.5).check([failure] * 51 + [""] * 49)
    with pytest.raises(SrftError, match="17 of 32"):
        healthy.check([failure] * 9)
