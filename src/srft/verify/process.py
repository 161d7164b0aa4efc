"""A worker process as its parent sees it: it does one call at a time, and its child is killed at the deadline."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from srft.errors import SrftError
from srft.verify.grade import Request

START_TIMEOUT = 120.0  # seconds for a worker to import its libraries, and the user's function
STARTS = 3  # times in a row that a process may end before it is asked anything
ATTEMPTS = 2  # of a call whose process ended: it may have been killed for another reason


@dataclass(frozen=True)
class Limits:
    """Limits of a worker.

    Args:
        timeout: seconds for one response.
        memory_mb: address space, in MiB; 0 for no limit.
        recycle: calls after which a child is replaced, so that the libraries' caches do not fill memory.
        function: `path/to/file.py:name` of the user's own grader, "" for none.
    """

    timeout: float = 5.0
    memory_mb: int = 4096
    recycle: int = 2000
    function: str = ""


@dataclass(frozen=True)
class NoReply:
    """A call came to nothing.

    Args:
        reason: e.g. "it did not return within 5 s", "its process ended with signal 11 (SIGSEGV)".
    """

    reason: str


def ending(code: int) -> str:
    """How a process ended, in words.

    Args:
        code: its exit code, negative for a signal, as of `subprocess`.
    """
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    return f"signal {-code} ({name}{', as where memory runs out' * (-code == signal.SIGKILL)})"


class Worker:
    """A process that forks a child to grade, so that replacing the child costs no imports.

    Nothing runs before the first request.

    Attributes:
        replaced: children killed at the deadline so far.
        batched: the user's function takes many responses in one call; known once the process runs.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.process: subprocess.Popen[bytes] | None = None
        self.replaced, self.batched = 0, False
        self._child = 0  # its process id, 0 for none
        self._stopped = False
        self._unread = b""

    def call(self, requests: Sequence[Request], timeout: float) -> list[Any] | NoReply:
        """What the process says of each response.

        Args:
            timeout: seconds for all of them.

        Raises:
            SrftError: a worker does not start, or was stopped; the user's function cannot be loaded, or raised; a
                request is no JSON.
        """
        call = self._as_json({"timeout": timeout, "requests": [vars(request) for request in requests]})
        reply: list[Any] | NoReply = NoReply("")
        for _ in range(ATTEMPTS):
            try:
                self.start()
                self._send(f"{self._child} {call}\n")
                reply = self._reply(timeout)
            except TimeoutError:
                self._replace()
                return NoReply(f"it did not return within {timeout:g} s")
            except (OSError, EOFError, ValueError):
                reply = NoReply(f"its worker ended with {ending(self.kill())}")
            else:
                if not isinstance(reply, NoReply):
                    break
        return reply

    def start(self) -> None:
        """Start the process and its child where they do not run.

        Raises:
            SrftError: as `call`.
        """
        for _ in range(STARTS):
            if self._stopped:
                raise SrftError("the verifier was closed while it graded")
            if self.process is None or self.process.poll() is not None:
                self._start()
            if self._child or self._is_ready():
                return
            code = self.kill()
        raise SrftError(
            f"a worker of the verifier did not start in {STARTS} attempts: {ending(code)}",
            where=f"{sys.executable} -m srft.verify.worker",
            fix="Run that command to see why; if it was killed, look for what fills the machine's memory.",
        )

    def stop(self) -> None:
        """End a call that is running in another thread, which raises, and begin none after it."""
        self._stopped = True
        if self.process is not None:
            self._signal(self.process)

    def kill(self) -> int:
        """End the process and its child, at once. Returns the process's exit code."""
        code = 0
        if self.process is not None:
            self._signal(self.process)
            code = self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        self.process, self._child, self._unread = None, 0, b""
        return code

    @staticmethod
    def _signal(process: subprocess.Popen[bytes]) -> None:
        """To the process, its child and whatever that started."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _as_json(self, call: Mapping[str, Any]) -> str:
        try:
            return json.dumps(call, default=str)
        except (TypeError, ValueError, RecursionError) as error:
            fix = "Give each row's columns as text, numbers, lists and mappings with text for keys."
            raise SrftError(f"a row cannot be written as JSON: {error}", where=self.limits.function, fix=fix) from None

    def _send(self, line: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()

    def _reply(self, timeout: float) -> list[Any] | NoReply:
        """The reply to the call; NoReply where the child ended during it, or before it."""
        message = self._message(time.monotonic() + timeout)
        if "ended" in message:
            self._child = 0
            return NoReply(f"its process ended with {ending(message['ended'])}")
        if "error" in message:
            fix = "Correct the function; it must return a number, or None, for any response."
            raise SrftError(message["error"], where=self.limits.function, fix=fix)
        return list(message["results"])

    def _replace(self) -> None:
        self.replaced += 1
        try:
            os.kill(self._child, signal.SIGKILL)
        except ProcessLookupError:
            self.kill()
        self._child = 0

    def _start(self) -> None:
        self.kill()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "srft.verify.worker", json.dumps(asdict(self.limits)), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the trainer, which then ends its workers
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def _is_ready(self) -> bool:
        """Whether a fresh child announces itself, rather than the process end. What the child before it wrote is
        ignored."""
        deadline = time.monotonic() + START_TIMEOUT
        where = self.limits.function or f"{sys.executable} -m srft.verify.worker"
        try:
            while not {"ready", "failed"} & (message := self._message(deadline)).keys():
                continue
        except TimeoutError:
            self.kill()
            what = f"it was not imported within {START_TIMEOUT:g} s"
            raise SrftError(what, where=where, fix="Import less in its file; look at the machine's load.") from None
        except (EOFError, ValueError):
            return False
        if "failed" in message:
            self.kill()
            fix = "Correct the file; see docs/rewards.md." if self.limits.function else "Run that command to see why."
            raise SrftError(message["failed"], where=where, fix=fix)
        self._child, self.batched = int(message["ready"]), message["batched"]
        return True

    def _message(self, deadline: float) -> Mapping[str, Any]:
        """The next JSON object that the worker writes; raises TimeoutError, EOFError or ValueError (no JSON)."""
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
        message: dict[str, Any] = json.loads(line)
        return message
