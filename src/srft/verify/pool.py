"""A worker process as its parent sees it: asked one thing at a time, killed and replaced when it takes too long."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from srft.errors import SrftError

START_TIMEOUT = 120.0  # seconds for a worker to import its libraries, and the user's function


@dataclass(frozen=True)
class Limits:
    """What a worker may take.

    Args:
        timeout: seconds for one answer.
        memory_mb: address space of a worker, in MiB; 0 for no limit.
        recycle: answers after which a worker is replaced, so that what libraries cache does not pile up.
        function: `path/to/file.py:name` of the user's own grader, "" for none.
    """

    timeout: float = 5.0
    memory_mb: int = 4096
    recycle: int = 2000
    function: str = ""


class Worker:
    """A process that forks the one that does the work, so that replacing that one costs no imports.

    Nothing runs before the first question. Every way to fail but a broken user's function is an answer of None.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.process: subprocess.Popen[bytes] | None = None
        self.replaced = 0
        self._child, self._asked = 0, 0
        self._unread = b""

    def ask(self, request: dict[str, Any]) -> tuple[str, float] | None:
        """Verdict and score; None when the worker took too long, or died of the request.

        Raises:
            SrftError: a worker does not start; the user's function cannot be loaded, or raised.
        """
        self._asked += 1
        line = json.dumps({**request, "id": self._asked}, default=str).encode() + b"\n"
        try:
            for _ in range(2):
                self._send(line)
                if (reply := self._reply()) is not None:
                    return reply
        except TimeoutError:
            self._replace()
        except (OSError, EOFError, ValueError):
            self.kill()
        return None

    def _send(self, line: bytes) -> None:
        if self.process is None or self.process.poll() is not None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        if self._child == 0:
            self._child = self._ready()
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def _reply(self) -> tuple[str, float] | None:
        """The answer to the last question; None when another child took over, which may not have heard it."""
        deadline = time.monotonic() + self.limits.timeout
        while True:
            found = self._line(deadline)
            if isinstance(found, dict):
                self._child = self._announced(found)
                return None
            number, verdict, score, last, note = found
            if number != self._asked:
                continue  # said twice, when a child died just before it was asked
            if last:
                self._child = 0
            if verdict == "error":
                raise SrftError(note, where=self.limits.function, fix="Mend the function; it must score any text.")
            return verdict, score

    def kill(self) -> None:
        """End the process and its child, at once."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:
                        continue
        self.process, self._child, self._unread = None, 0, b""

    def _replace(self) -> None:
        self.replaced += 1
        if not self._child:
            return self.kill()
        try:
            os.kill(self._child, signal.SIGKILL)
        except ProcessLookupError:
            return self.kill()
        self._child = 0
        return None

    def _start(self) -> None:
        self.kill()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "srft.verify.worker", json.dumps(asdict(self.limits))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the trainer, which then ends its workers
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def _ready(self) -> int:
        """The process id of a fresh child. What a child that was killed still wrote is passed over."""
        deadline = time.monotonic() + START_TIMEOUT
        try:
            while not isinstance(line := self._line(deadline), dict):
                continue
        except (EOFError, TimeoutError, ValueError) as error:
            self.kill()
            raise SrftError(
                "a worker of the verifier did not start",
                where=f"{sys.executable} -m srft.verify.worker",
                fix="Run that command to see why.",
            ) from error
        return self._announced(line)

    def _announced(self, line: dict[str, Any]) -> int:
        if "failed" in line:
            self.kill()
            raise SrftError(line["failed"], where=self.limits.function, fix="Mend the file: see docs/grading.md.")
        return int(line["ready"])

    def _line(self, deadline: float) -> Any:
        assert self.process is not None
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise TimeoutError
                part = os.read(pipe, 65536)
                if not part:
                    raise EOFError
                self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)
