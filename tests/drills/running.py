"""`srft` in processes of its own, watched as it runs, and a small model to train."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.helpers import ROOT
from tests.training import sharded_runs

ALONE = (sys.executable, "-m")
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
STEPS = 12


def words(folder: Path, out: Path, *changes: str) -> list[str]:
    """`srft train` of a model in `folder` that `sharded_runs.make_model` made: twelve steps in a few seconds."""
    return [
        "srft", "train", "quickstart", *sharded_runs.SMALL, f"model.path={folder}/model", f"training.steps={STEPS}",
        f"verify.function={folder}/grader.py:grade", "data.limit=64", "training.prompts_per_step=32", "rollout.n=4",
        "rollout.max_response_length=64", "training.tokens_per_micro_batch=2000", "optim.lr=1e-3",
        "training.checkpoint_every=3", *changes, "--out", str(out),
    ]  # fmt: skip


class Running:
    """A command that runs.

    Attributes:
        lines: what it has printed so far, errors among them.
    """

    def __init__(self, command: list[str]) -> None:
        path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT,
            errors="replace", start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which is ignored under nohup
        )  # fmt: skip
        self.lines: list[str] = []
        self._news, self._closed = threading.Condition(), False
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def output(self) -> str:
        """All that it has printed so far."""
        return "".join(self.lines)

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Until it has printed a line that begins so."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._has(text), seconds)
        assert self._has(text), self.output[-3000:]

    def end(self, seconds: float = 60) -> int:
        """Its exit status, once it has ended.

        Raises:
            TimeoutExpired: it has not in this time.
        """
        status = self.process.wait(seconds)
        with self._news:
            self._news.wait_for(lambda: self._closed, 10)
        return status

    def send(self, signum: int, *, to_all: bool = False) -> None:
        """A signal to the process, or as a terminal does to all of its group."""
        (os.killpg if to_all else os.kill)(self.process.pid, signum)

    def descendants(self) -> list[psutil.Process]:
        """The processes under it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def _has(self, text: str) -> bool:
        return any(line.strip().startswith(text) for line in self.lines)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()


@contextmanager
def running(*command: str) -> Iterator[Running]:
    """The command in a session of its own, of which nothing is left in the end."""
    run = Running([*command])
    try:
        yield run
    finally:
        for process in run.descendants() if run.process.poll() is None else ():
            process.kill()
        with suppress(ProcessLookupError):
            run.send(signal.SIGKILL, to_all=True)
        run.process.wait()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those whose command line names the folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and str(folder) in " ".join(process.info["cmdline"] or ()):
            found.append(process)
    return found
