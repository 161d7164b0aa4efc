"""Worker processes as their parent sees them: each does one call at a time, and is killed at the deadline."""

from __future__ import annotations

import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from srft.errors import SrftError
from srft.verify.grade import Request

START_TIMEOUT = 120.0  # seconds for a worker to import its libraries, and the user's function


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


class WorkerPool:
    """Workers that share what is to be done.

    Args:
        workers: processes; each starts when it is first needed.
        limits: of each of them.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self._pool = [Worker(limits) for _ in range(workers)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # a running worker before one not yet started
        for worker in self._pool:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="srft-verify")
        self._closed = threading.Event()

    @property
    def replaced(self) -> int:
        """Workers killed at the deadline so far."""
        return sum(worker.replaced for worker in self._pool)

    @property
    def batched(self) -> bool:
        """Whether the user's function takes many responses in one call; starts a worker.

        Raises:
            SrftError: it cannot be loaded.
        """
        worker = self._idle.get()
        try:
            worker.start()
        finally:
            self._idle.put(worker)
        return worker.batched

    def submit(self, requests: Sequence[Request], timeout: float) -> Future[list[Any] | None]:
        """`Worker.call` in the first worker that is free."""
        return self._threads.submit(self._call, requests, timeout)

    def close(self) -> None:
        """End the workers; what is not done yet becomes None or is cancelled."""
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().kill()

    def _call(self, requests: Sequence[Request], timeout: float) -> list[Any] | None:
        worker = self._idle.get()
        try:
            return None if self._closed.is_set() else worker.call(requests, timeout)
        finally:
            self._idle.put(worker)


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
        self._child, self._requests = 0, 0  # the child's process id, 0 for none; the requests so far
        self._unread = b""

    def call(self, requests: Sequence[Request], timeout: float) -> list[Any] | None:
        """What the process says of each response; None when the deadline passed, or the child died of the call.

        Args:
            timeout: seconds for all of them.

        Raises:
            SrftError: a worker does not start; the user's function cannot be loaded, or raised.
        """
        self._requests += 1
        message = {"id": self._requests, "timeout": timeout, "requests": [vars(request) for request in requests]}
        line = json.dumps(message, default=str).encode() + b"\n"
        try:
            for _ in range(2):
                self._send(line)
                if (results := self._reply(timeout)) is not None:
                    return results
        except TimeoutError:
            self._replace()
        except (OSError, EOFError, ValueError):
            self.kill()
        return None

    def start(self) -> None:
        """Start the process and its child where they do not run.

        Raises:
            SrftError: as `call`.
        """
        if self.process is None or self.process.poll() is not None:
            self._start()
        if self._child == 0:
            self._child = self._ready()

    def _send(self, line: bytes) -> None:
        self.start()
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def _reply(self, timeout: float) -> list[Any] | None:
        """The reply to the last call; None when a new child took over, which may not have received it."""
        deadline = time.monotonic() + timeout
        while True:
            message = self._message(deadline)
            if "id" not in message:
                self._child = self._announced(message)
                return None
            if message["id"] != self._requests:
                continue  # sent twice, because a child died just before it read the call
            if message["last"]:
                self._child = 0
            if "error" in message:
                fix = "Correct the function; it must return a number, or None, for any response."
                raise SrftError(message["error"], where=self.limits.function, fix=fix)
            return list(message["results"])

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
        """The process id of a fresh child. Replies that a killed child still wrote are ignored."""
        deadline = time.monotonic() + START_TIMEOUT
        try:
            while "id" in (message := self._message(deadline)):
                continue
        except (EOFError, TimeoutError, ValueError) as error:
            self.kill()
            raise SrftError(
                "a worker of the verifier did not start",
                where=f"{sys.executable} -m srft.verify.worker",
                fix="Run that command to see why.",
            ) from error
        return self._announced(message)

    def _announced(self, message: Mapping[str, Any]) -> int:
        if "failed" in message:
            self.kill()
            raise SrftError(message["failed"], where=self.limits.function, fix="Correct the file; see docs/rewards.md.")
        self.batched = message["batched"]
        return int(message["ready"])

    def _message(self, deadline: float) -> dict[str, Any]:
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
