"""One of a user's reward functions as the verifier calls it: in worker processes for a file's, in this process for a
Python callable."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Protocol

from srft.errors import SrftError
from srft.verify.function import check_function, describe, name_of, reward_function
from srft.verify.grade import Request
from srft.verify.pool import WorkerPool
from srft.verify.process import Limits, NoReply


@dataclass(frozen=True)
class Score:
    """What a function gave for a response.

    Args:
        value: None where the function does not apply.
        failure: why it gave nothing for this response, e.g. "it did not return within 5 s"; its value is then 0.
    """

    value: float | None
    failure: str = ""


class Reward(Protocol):
    """A function that scores responses."""

    name: str
    where: str  # for errors: its file, or that it is Python's

    def scores(self, requests: Sequence[Request]) -> list[Score]:
        """Of each response, in order.

        Raises:
            SrftError: the function cannot be loaded, raised, returned what is no reward, or hangs.
        """

    def close(self) -> None:
        """End what it runs in."""


class FileReward:
    """A function `path/to/file.py:name`, in worker processes. One with TRL's signature gets all responses in one call;
    when that call dies or exceeds its time, each response is tried alone, so that one takes no other with it.

    Args:
        limits: of a worker; its `timeout` is for one response alone.
        call_timeout: seconds for one call with all responses.

    Raises:
        SrftError: the function is malformed or its file does not exist.
    """

    def __init__(self, spec: str, workers: int, limits: Limits, call_timeout: float) -> None:
        check_function(spec)
        self.name, self.where, self.timeout, self.call_timeout = name_of(spec), spec, limits.timeout, call_timeout
        self.pool = WorkerPool(workers, limits)

    def scores(self, requests: Sequence[Request]) -> list[Score]:
        batched = self.pool.batched
        if batched:
            values = self.pool.submit(requests, self.call_timeout).result()
            if not isinstance(values, NoReply):
                return [Score(value) for value in values]
        futures = [self.pool.submit([request], self.timeout) for request in requests]
        try:
            results = [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
        return [Score(0.0, one.reason) if isinstance(one, NoReply) else Score(one[0]) for one in results]

    def close(self) -> None:
        self.pool.close()


class CallableReward:
    """A Python function, in a thread of this process: it cannot be killed, so one that exceeds its time ends the run.

    Args:
        call_timeout: seconds for one call with all responses.

    Raises:
        SrftError: its signature is neither TRL's nor verl's.
    """

    def __init__(self, function: Callable[..., Any], call_timeout: float) -> None:
        self.name, self.call_timeout = name_of(function), call_timeout
        self.where = f"rewards: {self.name}"
        try:
            self.function = reward_function(function)
        except ValueError as error:
            raise SrftError(str(error), where=self.where, fix="See docs/rewards.md.") from None

    def scores(self, requests: Sequence[Request]) -> list[Score]:
        done: Future[list[float | None]] = Future()

        def call() -> None:
            try:
                done.set_result(self.function.call(requests))
            except (Exception, SystemExit) as error:
                done.set_exception(error)

        threading.Thread(target=call, daemon=True, name=f"reward {self.name}").start()
        wait([done], self.call_timeout)
        if not done.done():
            what = f"it did not return within {self.call_timeout:g} s for {len(requests)} responses"
            fix = "Raise verify.function_timeout, or make the function faster."
        elif error := done.exception():
            what, fix = describe(error), "Correct the function; it must return a number, or None, for any response."
        else:
            return [Score(value) for value in done.result()]
        raise SrftError(what, where=self.where, fix=fix)

    def close(self) -> None:
        """Nothing to end."""
