"""Grades one answer at a time in a process of its own: `python -m srft.verify.worker LIMITS`, as JSON.

Reads requests and writes replies as JSON lines. The process imports the libraries once and forks a child to do the
work; when the child dies or has done its share, it forks another. The child has no deadline of its own, only an alarm
that ends an orphan: whoever started it kills it when it takes too long, because libraries that parse mathematics can
hang or fill memory on a hostile answer.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, TextIO

from srft.verify.compare import grade_math
from srft.verify.function import describe, load_function
from srft.verify.graders import GRADERS, Grader
from srft.verify.pool import Limits

DONE = 7  # exit code of a child whose parent has closed the pipe
ORPHAN = 30  # seconds past the deadline, after which a child ends by itself


def reply(request: Mapping[str, Any], function: Grader | None = None) -> tuple[str, float, str]:
    """Verdict, score and note. Whatever an answer makes a library raise is "unparsable"; what the user's function
    raises is an "error", told in the note."""
    if function is not None:
        try:
            return (*function(request), "")
        except Exception as error:
            return "error", 0.0, describe(error)
    try:
        return (*GRADERS[request["verifier"]](request), "")
    except MemoryError:
        return "timeout", 0.0, ""
    except Exception:
        return "unparsable", 0.0, ""


def serve(limits: Mapping[str, Any], replies: TextIO) -> None:
    """Answer until the pipe closes, or until this process has done its share."""
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
    print(json.dumps({"ready": os.getpid()}), file=replies, flush=True)
    for count, line in enumerate(_lines(), 1):
        signal.setitimer(signal.ITIMER_REAL, limits["timeout"] + ORPHAN)
        request = json.loads(line)
        verdict, score, note = reply(request, function)
        signal.setitimer(signal.ITIMER_REAL, 0)
        last = count == limits["recycle"]
        print(json.dumps([request["id"], verdict, score, last, note]), file=replies, flush=True)
        if last:
            return
    os._exit(DONE)


def _lines() -> Iterator[bytes]:
    """The requests. Mostly one is under way; it may come twice when the child before this one died unasked."""
    unread = b""
    while part := os.read(0, 1 << 20):
        *lines, unread = (unread + part).split(b"\n")
        yield from lines


def warm_up() -> None:
    """Import, and fill the parser's tables, once before any fork: children start with both."""
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
