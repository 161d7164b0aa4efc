"""Evaluation: avg@k and pass@k over sets of problems."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import comb
from statistics import fmean
from typing import Any, Protocol

from srft.errors import SrftError


class Graded(Protocol):
    """A sampled and graded response, of the problem at `slot`."""

    @property
    def slot(self) -> int: ...
    @property
    def grade(self) -> Any: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def finished(self) -> bool: ...


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of k samples is right, unbiased from n ≥ k samples: 1 − C(n−c, k) / C(n, k)."""
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise SrftError(f"pass@{k} needs 1 <= k <= n and 0 <= correct <= n; got n={n}, correct={correct}")
    return 1 - comb(n - correct, k) / comb(n, k)


def summarise(responses: Sequence[Graded], k: int) -> dict[str, float]:
    """avg@k, pass@k, the mean length (tokens), the share cut at the limit and of each verdict but right and wrong."""
    by_problem = defaultdict(list)
    for response in responses:
        by_problem[response.slot].append(response.grade)
    verdicts = Counter(r.grade.verdict.value for r in responses)
    return {
        "problems": len(by_problem),
        f"avg@{k}": fmean(fmean(g.score for g in grades) for grades in by_problem.values()),
        f"pass@{k}": fmean(
            pass_at_k(len(grades), sum(g.score >= 1 for g in grades), k) for grades in by_problem.values()
        ),
        "response_length": fmean(len(r.token_ids) for r in responses),
        "unfinished": fmean(not r.finished for r in responses),
        "unparsable": verdicts["unparsable"] / len(responses),
        "timeout": verdicts["timeout"] / len(responses),
    }
