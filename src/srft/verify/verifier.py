"""The verifier: grades responses in worker processes that are killed when an answer takes too long."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import queue
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from srft.data.problem import Problem
from srft.errors import SrftError, did_you_mean
from srft.verify.answer import answer_of, plain_number
from srft.verify.function import check_function
from srft.verify.graders import GRADERS, IN_PLACE
from srft.verify.limits import LONGEST
from srft.verify.pool import Limits, Worker

VERIFIERS = tuple(GRADERS)
LONGEST_RESPONSE = 200_000  # characters of a response that are looked at, from its end


class Verdict(StrEnum):
    """RIGHT and WRONG; UNPARSABLE: no answer could be read, or one too large to try; TIMEOUT: too long or too much
    memory to decide."""

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Grade:
    """A verdict and its score: 1 for right and 0 for the others, but for scorers that give part of a point and for a
    user's function, whose score it is."""

    verdict: Verdict
    score: float


class Verifier:
    """Grades responses; use it as a context manager, or call `close`.

    Args:
        workers: processes; as many as cores if left out, at most 8. None starts before an answer needs one.
        timeout: seconds for one answer, then its worker is killed and replaced.
        memory_mb: address space of a worker, in MiB; 0 for no limit.
        recycle: answers after which a worker is replaced.
        function: `path/to/file.py:name`, a grader of the user's own for every problem in place of `Problem.verifier`.

    Attributes:
        counts: verdicts given so far.

    Raises:
        SrftError: `function` names no file.
    """

    def __init__(
        self,
        workers: int | None = None,
        timeout: float = 5.0,
        memory_mb: int = 4096,
        recycle: int = 2000,
        function: str | None = None,
    ) -> None:
        if function:
            check_function(function)
        self.workers = workers or min(os.cpu_count() or 1, 8)
        self.timeout, self.memory_mb, self.function = timeout, memory_mb, function
        self.counts: Counter[Verdict] = Counter()
        limits = Limits(timeout, memory_mb, recycle, function or "")
        self._pool = [Worker(limits) for _ in range(self.workers)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # a running worker before one not yet started
        for worker in self._pool:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="srft-verify")
        self._closed = threading.Event()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def replaced(self) -> int:
        """Workers that were killed at the deadline so far."""
        return sum(worker.replaced for worker in self._pool)

    def close(self) -> None:
        """End the workers."""
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().kill()

    def grade(self, items: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """Grade each response text (with the `<think>` that its prompt opened, if it did), in order.

        Raises:
            SrftError: a problem names an unknown verifier, or one whose package is missing; the user's function cannot
                be loaded or raised. No text makes another verifier raise.
        """
        futures = self._submit(items)
        try:
            return self._counted(future.result() for future in futures)
        finally:
            for future in futures:
                future.cancel()

    async def grade_async(self, items: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """`grade` for asyncio: many calls may be under way, which share the workers."""
        return self._counted(await asyncio.gather(*map(asyncio.wrap_future, self._submit(items))))

    def self_check(self, problems: Sequence[Problem]) -> list[Problem]:
        """The problems whose own answer does not grade as right. Only a user's function knows what it takes for an
        answer: that one is called once, so that a broken one is found out early."""
        if self.function:
            self.grade([(p, f"\\boxed{{{p.answer}}}") for p in problems[:1]])
            return []
        problems = [p for p in problems if p.verifier != "format"]  # it looks at no answer
        grades = self.grade([(p, f"\\boxed{{{p.answer}}}") for p in problems])
        return [p for p, grade in zip(problems, grades, strict=True) if grade.verdict is not Verdict.RIGHT]

    def _submit(self, items: Sequence[tuple[Problem, str]]) -> list[Future[Grade]]:
        if not self.function:
            for name in {problem.verifier for problem, _ in items}:
                check_verifier(name)
        return [self._future(problem, text) for problem, text in items]

    def _future(self, problem: Problem, text: str) -> Future[Grade]:
        quick = None if self.function else _quickly(problem, text)
        if quick is None:
            return self._threads.submit(self._ask, problem, text)
        done: Future[Grade] = Future()
        done.set_result(quick)
        return done

    def _counted(self, grades: Iterable[Grade]) -> list[Grade]:
        found = list(grades)
        self.counts.update(grade.verdict for grade in found)
        return found

    def _ask(self, problem: Problem, text: str) -> Grade:
        request: dict[str, Any] = {"verifier": problem.verifier, "answer": problem.answer, "text": text}
        if self.function:
            request |= {"prompt": problem.prompt, "source": problem.source, "metadata": dict(problem.metadata)}
        else:
            request["text"] = _end_of(text)
            if problem.verifier == "reasoning-gym":
                request["metadata"] = dict(problem.metadata)
        worker = self._idle.get()
        try:
            reply = None if self._closed.is_set() else worker.ask(request)
        finally:
            self._idle.put(worker)
        return Grade(Verdict.TIMEOUT, 0.0) if reply is None else Grade(Verdict(reply[0]), float(reply[1]))


def check_verifier(name: str) -> None:
    """Whether there is a grader of that name.

    Raises:
        SrftError: there is none, or its package is missing.
    """
    if name not in VERIFIERS:
        raise SrftError(f"unknown verifier '{name}'", where="problem.verifier", fix=did_you_mean(name, VERIFIERS))
    if name == "reasoning-gym" and importlib.util.find_spec("reasoning_gym") is None:
        raise SrftError("reasoning-gym is not installed", where="verifier", fix="pip install 'srft[reasoning-gym]'")


def _end_of(text: str) -> str:
    """The end of a long response, still with its unfinished thought."""
    unfinished = "<think>" in text and "</think>" not in text
    return ("<think>" if unfinished and len(text) > LONGEST_RESPONSE else "") + text[-LONGEST_RESPONSE:]


def _quickly(problem: Problem, text: str) -> Grade | None:
    """The grade of what needs no worker: no answer at all, one too long, two plain numbers, a letter, words, tags."""
    if problem.verifier in IN_PLACE:
        verdict, score = GRADERS[problem.verifier]({"answer": problem.answer, "text": _end_of(text)})
        return Grade(Verdict(verdict), score)
    if problem.verifier not in ("math", "oat"):
        return None
    candidate = answer_of(_end_of(text))
    if candidate is None:
        return Grade(Verdict.UNPARSABLE, 0.0)
    if candidate == problem.answer.strip():
        return Grade(Verdict.RIGHT, 1.0)
    if len(candidate) > LONGEST:
        return Grade(Verdict.UNPARSABLE, 0.0)
    gold, value = plain_number(problem.answer), plain_number(candidate)
    if gold is None or value is None:
        return None
    return Grade(Verdict.RIGHT, 1.0) if gold == value else Grade(Verdict.WRONG, 0.0)
