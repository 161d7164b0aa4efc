"""The verifier: grades responses in worker processes, which are killed at a deadline."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import queue
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from srft.data.problem import Problem
from srft.errors import SrftError, did_you_mean
from srft.verify.function import check_function
from srft.verify.grade import TIMEOUT, Grade, Request, Verdict
from srft.verify.graders import GRADERS
from srft.verify.pool import Limits, Worker

LONGEST_RESPONSE = 200_000  # characters of a response that are read, from its end


class Verifier:
    """Grades responses; use it as a context manager, or call `close`.

    Args:
        workers: processes; as many as cores if left out, at most 8. Each starts when a response first needs it.
        timeout: seconds for one response, after which its worker is killed and replaced.
        memory_mb: address space of a worker, in MiB; 0 for no limit.
        recycle: responses after which a worker is replaced.
        function: `path/to/file.py:name`, a user's own grader for every problem, in place of `Problem.grader`.

    Attributes:
        counts: verdicts so far.

    Raises:
        SrftError: `function` is malformed or its file does not exist.
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
        """Workers killed at the deadline so far."""
        return sum(worker.replaced for worker in self._pool)

    def close(self) -> None:
        """End the workers; what is not graded yet becomes TIMEOUT or is cancelled."""
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().kill()

    def grade(self, items: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """The grades of (problem, response) pairs, in order.

        Args:
            items: a response is its whole text, with the `<think>` that its prompt opened, if it did.

        Raises:
            SrftError: a problem names an unknown grader, or one whose dependency is missing; a worker does not start;
                the user's function cannot be loaded, or raised. No response makes another grader raise.
        """
        futures = self._submit(items)
        try:
            return self._counted(future.result() for future in futures)
        finally:
            for future in futures:
                future.cancel()

    async def grade_async(self, items: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """`grade` for asyncio; concurrent calls share the workers."""
        return self._counted(await asyncio.gather(*map(asyncio.wrap_future, self._submit(items))))

    def self_check(self, problems: Sequence[Problem]) -> list[Problem]:
        """The problems whose own gold answer is not graded RIGHT.

        A user's function may expect any form of answer; it is only called once, so that a broken one stops the run
        early, and no problem is returned.

        Raises:
            SrftError: as `grade`.
        """
        if self.function:
            self.grade([(p, f"\\boxed{{{p.answer}}}") for p in problems[:1]])
            return []
        problems = [p for p in problems if p.grader not in GRADERS or GRADERS[p.grader].uses_answer]
        grades = self.grade([(p, f"\\boxed{{{p.answer}}}") for p in problems])
        return [p for p, grade in zip(problems, grades, strict=True) if grade.verdict is not Verdict.RIGHT]

    def _submit(self, items: Sequence[tuple[Problem, str]]) -> list[Future[Grade]]:
        if not self.function:
            for name in {problem.grader for problem, _ in items}:
                check_grader(name)
        return [self._future(self._request(problem, response)) for problem, response in items]

    def _request(self, problem: Problem, response: str) -> Request:
        if self.function:
            metadata = dict(problem.metadata)
            return Request(problem.grader, problem.answer, response, problem.prompt, problem.source, metadata)
        metadata = dict(problem.metadata) if GRADERS[problem.grader].uses_metadata else {}
        return Request(problem.grader, problem.answer, _end_of(response), metadata=metadata)

    def _future(self, request: Request) -> Future[Grade]:
        grade = None if self.function else _in_this_process(request)
        if grade is None:
            return self._threads.submit(self._in_a_worker, request)
        done: Future[Grade] = Future()
        done.set_result(grade)
        return done

    def _counted(self, grades: Iterable[Grade]) -> list[Grade]:
        given = list(grades)
        self.counts.update(grade.verdict for grade in given)
        return given

    def _in_a_worker(self, request: Request) -> Grade:
        worker = self._idle.get()
        try:
            grade = None if self._closed.is_set() else worker.grade(request)
        finally:
            self._idle.put(worker)
        return TIMEOUT if grade is None else grade


def _in_this_process(request: Request) -> Grade | None:
    """The grade of a response that needs no worker; None for any other."""
    grader = GRADERS[request.grader]
    if not grader.isolated:
        return grader.grade(request)
    return grader.shortcut(request) if grader.shortcut else None


def check_grader(name: str) -> None:
    """Return nothing when there is a grader of that name and what it needs is installed.

    Raises:
        SrftError: there is none, or its optional dependency is missing.
    """
    if name not in GRADERS:
        raise SrftError(f"unknown grader '{name}'", where="problem.grader", fix=did_you_mean(name, GRADERS))
    extra = GRADERS[name].extra
    if extra and importlib.util.find_spec(extra.replace("-", "_")) is None:
        raise SrftError(f"{extra} is not installed", where=f"grader '{name}'", fix=f"pip install 'srft[{extra}]'")


def _end_of(response: str) -> str:
    """The end of a long response, which still begins with <think> if its thought never ended."""
    unfinished = "<think>" in response and "</think>" not in response
    return ("<think>" if unfinished and len(response) > LONGEST_RESPONSE else "") + response[-LONGEST_RESPONSE:]
