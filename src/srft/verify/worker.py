"""The worker process, `python -m srft.verify.worker LIMITS PARENT`: reads calls and writes replies as JSON lines.

It imports the libraries once and forks a child that grades; when the child dies or is recycled, it forks another. The
parent process (PARENT, its id) enforces the deadline, by killing the child. When the parent dies, worker and child end.
"""

# The protocol, one JSON object a line.
#   call:  before the object the process id of the child that it is for, for no other may take it; `timeout` in seconds,
#          and `requests`, the fields of grade.Request each.
#   reply: `results`: a grader's verdict, reward and failure, or what the user's function gave, for each request; or
#          `error` of that function.
#   a fresh child first writes `ready` (its process id) and `batched` (the user's function takes many requests in one
#   call), or `failed` (why that function cannot be loaded).
#   after a child the worker writes `ended` (its exit code, negative for a signal), and `failed` when it forks no other,
#   because several in a row ended before their first call.

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn, TextIO

from srft.verify.function import RewardFunction, describe, load_function
from srft.verify.grade import UNPARSABLE, Grade, Request, not_graded
from srft.verify.graders import GRADERS
from srft.verify.math import grade_math
from srft.verify.process import STARTS, Limits, ending

DONE = 207  # exit code of a child after which no other is forked
ORPHAN = 30  # seconds past the deadline after which a child ends by itself, where no signal of its parent's death comes
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def reply(requests: Sequence[Request], function: RewardFunction | None = None) -> dict[str, Any]:
    """The reply's results; what the user's function raises is returned as `error`."""
    if function is None:
        return {"results": [asdict(_graded(request)) for request in requests]}
    try:
        return {"results": function.call(requests)}
    except (Exception, SystemExit) as error:
        return {"error": describe(error)}


def _graded(request: Request) -> Grade:
    """What a response makes a library raise is UNPARSABLE, or TIMEOUT when memory ran out."""
    try:
        return GRADERS[request.grader].grade(request)
    except MemoryError:
        return not_graded("it ran out of memory")
    except Exception:
        return UNPARSABLE


def serve(limits: Mapping[str, Any], replies: TextIO, called: mmap.mmap) -> int:
    """Reply to calls until the pipe closes or the child is to be recycled. Returns the child's exit code.

    Args:
        limits: the fields of `process.Limits`.
        replies: the file that replies are written to.
        called: one byte; the child's first call makes it 1.
    """
    function = None
    try:
        if limits["function"]:
            function = load_function(limits["function"])
    except (Exception, SystemExit) as error:
        _say(replies, failed=describe(error))
        return DONE
    if limits["memory_mb"]:
        import resource

        size = limits["memory_mb"] * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    _say(replies, ready=os.getpid(), batched=function is not None and function.batched)
    for count, call in enumerate(_calls(), 1):
        called[0] = 1
        signal.setitimer(signal.ITIMER_REAL, call["timeout"] + ORPHAN)
        answer = reply([Request(**fields) for fields in call["requests"]], function)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _say(replies, **answer)
        if count == limits["recycle"]:
            return 0
    return DONE


def _say(replies: TextIO, **message: Any) -> None:
    print(json.dumps(message), file=replies, flush=True)


def _calls() -> Iterator[Mapping[str, Any]]:
    """The calls for this child; one before it may have died before it had read all of its own."""
    me = str(os.getpid()).encode()
    for line in _lines():
        child, _, call = line.partition(b" ")
        if child == me:
            yield json.loads(call)


def _lines() -> Iterator[bytes]:
    unread: list[bytes] = []
    while part := os.read(0, 1 << 16):
        *lines, rest = part.split(b"\n")
        for line in lines:
            yield b"".join([*unread, line])
            unread.clear()
        unread.append(rest)


def warm_up() -> None:
    """Import the libraries and fill the parser's tables before any fork, so that every child starts with both."""
    for gold, candidate in (
        ("\\frac{x+1}{2}-\\sqrt[3]{5}\\pi", "\\frac{x}{2}+\\frac12-\\pi\\cdot 5^{1/3}"),
        ("2x^2+3y=1", "y=\\frac{1-2x^2}{3}"),
        ("\\sin(2a)|b|-n!", "2\\sin a\\cos a |b| - n!"),
        (
            "\\begin{pmatrix}1\\\\2\\end{pmatrix}+\\begin{pmatrix}1\\\\2\\end{pmatrix}",
            "\\begin{pmatrix}2\\\\4\\end{pmatrix}",
        ),
    ):
        grade_math(gold, candidate)


def main() -> None:
    """Fork children one after another, until one ends with DONE or too many end unasked."""
    # Replies go to a copy of stdout, so that nothing a library prints is taken for one.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.setrecursionlimit(5000)
    limits = json.loads(sys.argv[1]) if sys.argv[1:] else asdict(Limits())
    _end_with(int(sys.argv[2]) if sys.argv[2:] else os.getppid())
    if not limits["function"]:
        warm_up()

    called, unasked, code = mmap.mmap(-1, 1), 0, 0
    while unasked < STARTS:
        called[0] = 0
        worker, child = os.getpid(), os.fork()
        if child == 0:
            _serve_alone(worker, limits, replies, called)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == DONE:
            return
        unasked = 0 if called[0] else unasked + 1
        _say(replies, ended=code)
    _say(replies, failed=f"its process ended {STARTS} times before the first call, with {ending(code)}")


def _end_with(parent: int) -> None:
    """From now on end this process and its group, the child and what that started, when the parent is gone."""

    def check(*_: object) -> None:
        if os.getppid() != parent:
            os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGALRM, check)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)


def _serve_alone(worker: int, limits: Mapping[str, Any], replies: TextIO, called: mmap.mmap) -> NoReturn:
    """The child's life. It ends with the worker: by a signal where the system has one, else by its own alarm."""
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        code = serve(limits, replies, called) if os.getppid() == worker else DONE
    except BrokenPipeError:
        code = DONE  # nobody reads the replies
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
