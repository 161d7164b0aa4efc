"""The worker process, `python -m srft.verify.worker LIMITS`: reads calls and writes replies as JSON lines.

It imports the libraries once and forks a child that grades; when the child dies or is recycled, it forks another. The
parent process enforces the deadline, by killing the child; the child's own alarm only ends an orphan.
"""

# The protocol, one JSON object a line.
#   call:  `id`, `timeout` in seconds, and `requests`, the fields of grade.Request each.
#   reply: `id`, `last` (the child is recycled now), and `results`: a grader's verdict and reward, or what the user's
#          function gave, for each request; or `error` of that function.
#   a fresh child first writes `ready` (its process id) and `batched` (the user's function takes many requests in one
#   call), or `failed` (why that function cannot be loaded).

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from srft.verify.function import RewardFunction, describe, load_function
from srft.verify.grade import TIMEOUT, UNPARSABLE, Grade, Request
from srft.verify.graders import GRADERS
from srft.verify.math import grade_math
from srft.verify.pool import Limits

DONE = 7  # exit code of a child after which no other is forked
ORPHAN = 30  # seconds past the deadline after which a child ends by itself


def reply(requests: Sequence[Request], function: RewardFunction | None = None) -> dict[str, Any]:
    """The reply's results; what the user's function raises is returned as `error`."""
    if function is None:
        return {"results": [asdict(_graded(request)) for request in requests]}
    try:
        return {"results": function.call(requests)}
    except Exception as error:
        return {"error": describe(error)}


def _graded(request: Request) -> Grade:
    """What a response makes a library raise is UNPARSABLE, or TIMEOUT when memory ran out."""
    try:
        return GRADERS[request.grader].grade(request)
    except MemoryError:
        return TIMEOUT
    except Exception:
        return UNPARSABLE


def serve(limits: Mapping[str, Any], replies: TextIO) -> None:
    """Reply to calls until the pipe closes, which ends the process, or until the child is to be recycled.

    Args:
        limits: the fields of `pool.Limits`.
        replies: the file that replies are written to.
    """
    function = None
    try:
        if limits["function"]:
            function = load_function(limits["function"])
    except Exception as error:
        print(json.dumps({"failed": describe(error)}), file=replies, flush=True)
        os._exit(DONE)
    if limits["memory_mb"]:
        import resource

        size = limits["memory_mb"] * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    batched = function is not None and function.batched
    print(json.dumps({"ready": os.getpid(), "batched": batched}), file=replies, flush=True)
    for count, line in enumerate(_lines(), 1):
        call = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, call["timeout"] + ORPHAN)
        answer = reply([Request(**fields) for fields in call["requests"]], function)
        signal.setitimer(signal.ITIMER_REAL, 0)
        last = count == limits["recycle"]
        print(json.dumps({"id": call["id"], "last": last, **answer}), file=replies, flush=True)
        if last:
            return
    os._exit(DONE)


def _lines() -> Iterator[bytes]:
    """The calls, as lines. One comes twice when the child before this one died before it read it."""
    unread: list[bytes] = []
    while part := os.read(0, 1 << 20):
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
    """Fork children one after another, until one ends with DONE."""
    # Replies go to a copy of stdout, so that nothing a library prints is taken for one.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.setrecursionlimit(5000)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    limits = json.loads(sys.argv[1]) if sys.argv[1:] else asdict(Limits())
    if not limits["function"]:
        warm_up()

    while True:
        child = os.fork()
        if child == 0:
            try:
                serve(limits, replies)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == DONE:
            return


if __name__ == "__main__":
    main()
