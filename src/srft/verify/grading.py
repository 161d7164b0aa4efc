"""What the graders say of responses: easy ones in this process, the others in worker processes under a deadline."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from srft.data.problem import Problem
from srft.errors import SrftError, did_you_mean
from srft.verify.extract import boxed
from srft.verify.grade import Grade, Request, Verdict, not_graded
from srft.verify.graders import GRADERS
from srft.verify.pool import WorkerPool
from srft.verify.process import Limits, NoReply

LONGEST_RESPONSE = 200_000  # characters of a response that are read, from its end
Items = Sequence[tuple[Problem, str]]


class GraderPool:
    """Grades responses by the graders that their problems name.

    Args:
        workers: processes.
        limits: of each of them.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self.timeout, self._pool = limits.timeout, WorkerPool(workers, limits)

    @property
    def replaced(self) -> int:
        """Workers killed at the deadline so far."""
        return self._pool.replaced

    def close(self) -> None:
        """End the workers; what is not graded yet raises or is cancelled."""
        self._pool.close()

    def grade(self, items: Items, extract: str) -> list[Grade]:
        """The grades of (problem, response) pairs, in order.

        Args:
            extract: which answer is read: the "boxed" one alone, or failing that the "last" one stated.

        Raises:
            SrftError: a problem names an unknown grader, or one whose dependency is missing; a worker does not start.
        """
        for name in {problem.grader for problem, _ in items}:
            check_grader(name)
        requests = [_request(problem, text, extract) for problem, text in items]
        quick = [_in_this_process(request) for request in requests]
        futures = [
            None if grade else self._pool.submit([request], self.timeout)
            for grade, request in zip(quick, requests, strict=True)
        ]
        try:
            return [grade or _grade(future) for grade, future in zip(quick, futures, strict=True)]
        finally:
            for future in filter(None, futures):
                future.cancel()


def needs_answer(problem: Problem) -> bool:
    """Whether the problem's grader compares with a gold answer.

    Raises:
        SrftError: see `check_grader`.
    """
    check_grader(problem.grader)
    return GRADERS[problem.grader].uses_answer


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


def _request(problem: Problem, response: str, extract: str) -> Request:
    grader = GRADERS[problem.grader]
    text = _end_of(boxed(response) if extract == "last" and grader.uses_answer else response)
    return Request(
        problem.grader, problem.answer, text, metadata=dict(problem.metadata) if grader.uses_metadata else {}
    )


def _in_this_process(request: Request) -> Grade | None:
    """The grade of a response that needs no worker; None for any other."""
    grader = GRADERS[request.grader]
    if not grader.isolated:
        return grader.grade(request)
    return grader.shortcut(request) if grader.shortcut else None


def _grade(reply: Future[list[Any] | NoReply] | None) -> Grade:
    """What a worker replied of one response."""
    assert reply is not None
    results = reply.result()
    if isinstance(results, NoReply):
        return not_graded(results.reason)
    (given,) = results
    return Grade(Verdict(given["verdict"]), given["reward"], failure=given["failure"])


def _end_of(response: str) -> str:
    """The end of a long response, which still begins with <think> if its thought never ended."""
    unfinished = "<think>" in response and "</think>" not in response
    return ("<think>" if unfinished and len(response) > LONGEST_RESPONSE else "") + response[-LONGEST_RESPONSE:]
