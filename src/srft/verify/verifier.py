"""The verifier: scores responses by graders in worker processes, which are killed at a deadline, and by a user's
functions."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from srft.data.problem import Problem
from srft.errors import SrftError
from srft.verify.grade import LARGEST_REWARD, Grade, Request, Verdict
from srft.verify.grading import GraderPool, Items, needs_answer
from srft.verify.process import Limits
from srft.verify.rewards import CallableReward, FileReward, Reward, Score
from srft.verify.settings import GRADER, VerifySettings
from srft.verify.timeouts import TimeoutLimit

ROUNDING = 1e-9  # of a weighted sum


@dataclass(frozen=True)
class BadAnswer:
    """A problem whose own gold answer does not grade as right.

    Args:
        failure: why it has no verdict; "" where it has another.
    """

    problem: Problem
    failure: str


class Verifier:
    """Scores responses; use it as a context manager, or call `close`.

    Args:
        workers: processes for each reward; as many as cores if left out, at most 8. Each starts when first needed.
        timeout: seconds for one response, after which its worker is killed and replaced.
        memory_mb: address space of a worker, in MiB; 0 for no limit.
        recycle: calls after which a worker is replaced.
        rewards: the weight of each reward: "grader" (the one that a problem names), `path/to/file.py:name` and Python
            functions; the grader alone if left out.
        function_timeout: seconds for one call of a function with many responses.
        right_at: the reward from which a response is right; if left out the grader's verdict, of functions alone 1.
        extract: which answer a grader reads: the "boxed" one alone, or failing that the "last" one stated.
        max_timeouts: share of responses without a verdict above which grading raises; None for never.

    Attributes:
        counts: verdicts so far.

    Raises:
        SrftError: a function is malformed, its file does not exist, or two have one name; a weight is too large.
    """

    def __init__(
        self,
        workers: int | None = None,
        timeout: float = 5.0,
        memory_mb: int = 4096,
        recycle: int = 2000,
        *,
        rewards: Mapping[str | Callable[..., Any], float] | None = None,
        function_timeout: float = 60.0,
        right_at: float | None = None,
        extract: str = "boxed",
        max_timeouts: float | None = None,
    ) -> None:
        self.workers = workers or min(os.cpu_count() or 1, 8)
        self.timeout, self.memory_mb, self.right_at, self.extract = timeout, memory_mb, right_at, extract
        self.counts: Counter[Verdict] = Counter()
        self._limit = TimeoutLimit(max_timeouts)
        weights = dict(rewards or {GRADER: 1.0})
        for weight in weights.values():
            if not abs(weight) <= LARGEST_REWARD:  # nor where it is NaN
                what = f"a weight is {weight:g}, not a finite number of at most {LARGEST_REWARD:,.0f}"
                raise SrftError(
                    what, where="verify.rewards", fix="Lower it; most methods divide rewards by their spread."
                )
        self.grader_weight = weights.pop(GRADER, None)
        self.functions: list[tuple[Reward, float]] = []
        for function, weight in weights.items():
            if isinstance(function, str):
                limits = Limits(timeout, memory_mb, recycle, function)
                self.functions.append((FileReward(function, self.workers, limits, function_timeout), weight))
            else:
                self.functions.append((CallableReward(function, function_timeout), weight))
        names = [reward.name for reward, _ in self.functions] + [GRADER]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise SrftError(f"two rewards are called '{twice[0]}'", where="verify.rewards", fix="Rename one of them.")
        self._graders = GraderPool(self.workers, Limits(timeout, memory_mb, recycle))
        self._threads = ThreadPoolExecutor(max(len(self.functions), 1), thread_name_prefix="srft-rewards")

    @classmethod
    def of(cls, settings: VerifySettings, functions: Mapping[str, Callable[..., Any]] = {}) -> Verifier:
        """The verifier of a recipe.

        Args:
            functions: Python functions by their names among the settings' rewards.
        """
        return cls(
            settings.workers,
            settings.timeout,
            rewards={functions.get(name, name): weight for name, weight in settings.weights.items()},
            function_timeout=settings.function_timeout,
            right_at=settings.right_at,
            extract=settings.extract,
            max_timeouts=settings.max_timeouts,
        )

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def replaced(self) -> int:
        """Workers of graders killed at the deadline so far."""
        return self._graders.replaced

    def close(self) -> None:
        """End the workers; a `grade` that is not done yet raises."""
        self._graders.close()
        for reward, _ in self.functions:
            reward.close()
        self._threads.shutdown(cancel_futures=True)

    def grade(self, items: Items) -> list[Grade]:
        """The grades of (problem, response) pairs, in order: of the grader, or the weighted sum of the rewards.

        Args:
            items: a response is its whole text, with the `<think>` that its prompt opened, if it did.

        Raises:
            SrftError: a problem names an unknown grader, or one whose dependency is missing; a worker does not start; a
                function cannot be loaded, raised or hangs; more than `max_timeouts` have no verdict. No response
                makes a grader raise.
        """
        return self._counted(self._grades(items))

    async def grade_async(self, items: Items) -> list[Grade]:
        """`grade` for asyncio; concurrent calls share the workers."""
        return self._counted(await asyncio.to_thread(self._grades, items))

    def accuracy(self, items: Items, extract: str) -> list[Grade]:
        """`grade` for an evaluation: where a grader is summed with functions, its grades alone.

        Args:
            extract: in place of the verifier's own.
        """
        mixed = self.grader_weight is not None and self.functions
        return self._counted(self._graders.grade(items, extract) if mixed else self._grades(items, extract))

    def self_check(self, problems: Sequence[Problem]) -> list[BadAnswer]:
        """The problems whose own gold answer the grader does not find RIGHT; none where functions alone score.

        Raises:
            SrftError: as `grade`.
        """
        if self.grader_weight is None:
            return []
        problems = [p for p in problems if needs_answer(p)]
        grades = self._graders.grade([(p, f"\\boxed{{{p.answer}}}") for p in problems], "boxed")
        self._limit.check([grade.failure for grade in grades])
        graded = zip(problems, grades, strict=True)
        return [BadAnswer(p, grade.failure) for p, grade in graded if grade.verdict is not Verdict.RIGHT]

    def check_functions(self, items: Items) -> None:
        """Call each function once, so that a broken one stops the run before it starts.

        Raises:
            SrftError: as `grade`; a function gives nothing for more than half of the responses.
        """
        requests = [_request(problem, text) for problem, text in items]
        for reward, _ in self.functions if items else ():
            failures = [score.failure for score in reward.scores(requests) if score.failure]
            if 2 * len(failures) > len(items):
                raise SrftError(
                    f"it gave nothing for {len(failures)} of {len(items)} responses before the run: {failures[0]}",
                    where=reward.where,
                    fix="Correct the function, or give it longer: verify.timeout for one response, "
                    "verify.function_timeout for a call with all of a step's.",
                )

    def _grades(self, items: Items, extract: str | None = None) -> list[Grade]:
        if not items:
            return []
        requests = [_request(problem, text) for problem, text in items] if self.functions else []
        running = [self._threads.submit(reward.scores, requests) for reward, _ in self.functions]
        graded: Sequence[Grade | None] = [None] * len(items)
        if self.grader_weight is not None:
            graded = self._graders.grade(items, extract or self.extract)
        scores = [future.result() for future in running]
        return [self._sum(graded[i], [of_function[i] for of_function in scores]) for i in range(len(items))]

    def _sum(self, graded: Grade | None, scores: Sequence[Score]) -> Grade:
        """The weighted sum of what the grader and the functions gave for a response, and its verdict."""
        given = {reward.name: score.value for (reward, _), score in zip(self.functions, scores, strict=True)}
        weights = {reward.name: weight for reward, weight in self.functions}
        if graded is not None:
            given, weights = {GRADER: graded.reward, **given}, {GRADER: self.grader_weight or 0.0, **weights}
        total = sum(weights[name] * value for name, value in given.items() if value is not None)
        right_at = 1.0 if self.right_at is None else self.right_at
        named = zip(self.functions, scores, strict=True)
        failures = [f"{reward.name}: {score.failure}" for (reward, _), score in named if score.failure]
        failures += [graded.failure] if graded and graded.failure else []
        if failures:
            verdict = Verdict.TIMEOUT
        elif graded and self.right_at is None:
            verdict = graded.verdict
        elif all(value is None for value in given.values()):
            verdict = Verdict.UNPARSABLE
        elif total >= right_at - ROUNDING:
            verdict = Verdict.RIGHT
        else:
            verdict = graded.verdict if graded and graded.verdict is Verdict.UNPARSABLE else Verdict.WRONG
        details = graded.details if graded else {}
        return Grade(verdict, total, details, given if self.functions else {}, "; ".join(failures))

    def _counted(self, grades: list[Grade]) -> list[Grade]:
        self.counts.update(grade.verdict for grade in grades)
        self._limit.check([grade.failure for grade in grades])
        return grades


def _request(problem: Problem, response: str) -> Request:
    """For a user's function, which gets all there is."""
    return Request(problem.grader, problem.answer, response, problem.prompt, problem.source, dict(problem.metadata))
