"""The verifier: grades answers in worker processes that are killed when an answer takes too long."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from srft.data.problem import Problem
from srft.errors import SrftError, did_you_mean
from srft.verify.answer import answer_of, plain_number

VERIFIERS = ("math", "reasoning-gym")
START_TIMEOUT = 120.0  # seconds for a worker to import its libraries
LONGEST = 200_000  # characters of a response that are looked at, from its end


class Verdict(StrEnum):
    """RIGHT and WRONG; UNPARSABLE: no answer could be read; TIMEOUT: too long or too much memory to decide."""

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Grade:
    """A verdict and its score in 0..1: 1 for right, 0 for the others, except for scorers that give part of a point."""

    verdict: Verdict
    score: float


class Verifier:
    """Grades responses; use it as a context manager, or call `close`.

    Args:
        workers: processes; as many as cores if left out, at most 8. None starts before an answer needs one.
        timeout: seconds for one answer, then its worker is killed and replaced.
        memory_mb: address space of a worker; 0 for no limit.
    """

    def __init__(self, workers: int | None = None, timeout: float = 5.0, memory_mb: int = 4096) -> None:
        self.workers = workers or min(os.cpu_count() or 1, 8)
        self.timeout, self.memory_mb = timeout, memory_mb
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(self.workers):
            self._idle.put(_Worker(memory_mb))
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="srft-verify")
        self._closed = threading.Event()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().kill()

    def grade(self, items: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """Grade each response text (with the `<think>` that its prompt opened, if it did). No text makes it raise.

        Raises:
            SrftError: a problem names an unknown verifier, or one whose package is missing.
        """
        for name in {problem.verifier for problem, _ in items}:
            _check_verifier(name)
        grades = [_quickly(problem, text) for problem, text in items]
        slow = [i for i, grade in enumerate(grades) if grade is None]
        answers = list(self._threads.map(self._ask, (items[i] for i in slow)))
        for i, grade in zip(slow, answers, strict=True):
            grades[i] = grade
        return [grade for grade in grades if grade is not None]

    def self_check(self, problems: Sequence[Problem]) -> list[Problem]:
        """The problems whose own answer does not grade as right."""
        grades = self.grade([(p, f"\\boxed{{{p.answer}}}") for p in problems])
        return [p for p, grade in zip(problems, grades, strict=True) if grade.verdict is not Verdict.RIGHT]

    def _ask(self, item: tuple[Problem, str]) -> Grade:
        problem, text = item
        request = {"verifier": problem.verifier, "answer": problem.answer, "text": text[-LONGEST:]}
        if problem.verifier == "reasoning-gym":
            request["metadata"] = dict(problem.metadata)  # type: ignore[assignment]
        worker = self._idle.get()
        try:
            reply = None if self._closed.is_set() else worker.ask(json.dumps(request), self.timeout)
        finally:
            self._idle.put(worker)
        return Grade(Verdict.TIMEOUT, 0.0) if reply is None else Grade(Verdict(reply[0]), float(reply[1]))


def _check_verifier(name: str) -> None:
    if name not in VERIFIERS:
        raise SrftError(f"unknown verifier '{name}'", where="problem.verifier", fix=did_you_mean(name, VERIFIERS))
    if name == "reasoning-gym" and importlib.util.find_spec("reasoning_gym") is None:
        raise SrftError("reasoning-gym is not installed", where="verifier", fix="pip install 'srft[reasoning-gym]'")


def _quickly(problem: Problem, text: str) -> Grade | None:
    """The grade of what needs no worker: no answer at all, or two plain numbers."""
    if problem.verifier != "math":
        return None
    candidate = answer_of(text[-LONGEST:] if "<think>" not in text or "</think>" in text else text)
    if candidate is None:
        return Grade(Verdict.UNPARSABLE, 0.0)
    gold, value = plain_number(problem.answer), plain_number(candidate)
    if gold is None or value is None:
        return None
    return Grade(Verdict.RIGHT, 1.0) if gold == value else Grade(Verdict.WRONG, 0.0)


class _Worker:
    """One worker process, started when it is first asked and anew after it was killed or died."""

    def __init__(self, memory_mb: int) -> None:
        self.memory_mb = memory_mb
        self.process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def ask(self, request: str, timeout: float) -> Any | None:
        """The reply, or None when the worker took too long or died of the request."""
        try:
            if self.process is None or self.process.poll() is not None:
                self._start()
            assert self.process is not None
            assert self.process.stdin is not None
            self.process.stdin.write(request.encode() + b"\n")
            self.process.stdin.flush()
            return json.loads(self._line(timeout))
        except (OSError, EOFError, TimeoutError, ValueError):
            self.kill()
            return None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:
                        continue
        self.process, self._unread = None, b""

    def _start(self) -> None:
        self.kill()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "srft.verify.worker", str(self.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the trainer, which then ends its workers
        )
        self._line(START_TIMEOUT)

    def _line(self, timeout: float) -> bytes:
        assert self.process is not None
        assert self.process.stdout is not None
        deadline, pipe = time.monotonic() + timeout, self.process.stdout.fileno()
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
        return line
