"""Grades one answer at a time in a process of its own: `python -m srft.verify.worker MEMORY_MB`.

Reads requests and writes replies as JSON lines. It has no deadline: whoever started it kills it when it takes too long,
because libraries that parse mathematics can hang or fill memory on a hostile answer.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from srft.verify.answer import answer_of


def grade_math(gold: str, candidate: str) -> tuple[str, float]:
    """math-verify's verdict, both sides boxed the same way, the gold one first; its own timeouts, which need SIGALRM
    and come back as "wrong", are off."""
    from math_verify import parse, verify

    parsed = parse(f"\\boxed{{{candidate}}}", parsing_timeout=None)
    if not parsed:
        return "unparsable", 0.0
    right = verify(parse(f"\\boxed{{{gold}}}", parsing_timeout=None), parsed, timeout_seconds=None)
    return ("right", 1.0) if right else ("wrong", 0.0)


def grade_reasoning_gym(entry: Mapping[str, Any], answer: str) -> tuple[str, float]:
    """The task's own scorer; it may give part of a point."""
    from reasoning_gym import get_score_answer_fn

    score = float(get_score_answer_fn(entry["metadata"]["source_dataset"])(answer=answer, entry=dict(entry)))
    return ("right" if score >= 1 - 1e-9 else "wrong"), score


def reply(request: Mapping[str, Any]) -> tuple[str, float]:
    """Verdict and score; whatever an answer makes a library raise is "unparsable"."""
    try:
        candidate = answer_of(request["text"])
        if request["verifier"] == "math":
            return ("unparsable", 0.0) if candidate is None else grade_math(request["answer"], candidate)
        return grade_reasoning_gym(request["metadata"], candidate or request["text"].rpartition("</think>")[2].strip())
    except MemoryError:
        return "timeout", 0.0
    except Exception:
        return "unparsable", 0.0


def main() -> None:
    # Replies go to a copy of stdout, so that nothing a library prints is taken for one.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.setrecursionlimit(5000)
    import math_verify  # noqa: F401  # before the first deadline runs

    if memory := int(sys.argv[1]):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory * 2**20, memory * 2**20))
    print(json.dumps("ready"), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(reply(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
