"""Estimators from n samples of each problem: pass@k, maj@k, and intervals over problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import comb
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from srft.errors import SrftError
from srft.seed import derive_seed

RESAMPLES = 10_000  # of the bootstrap
SUBSETS = 1000  # of a problem's samples that stand for all of them where there are more


class Interval(NamedTuple):
    """An interval of an estimate, in its unit."""

    low: float
    high: float


class _Vote(NamedTuple):
    """Right answers vote together, whatever they are written as; wrong ones by what they are written as."""

    is_right: bool
    answer: str | None


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of k samples is right, unbiased from n ≥ k samples: 1 − C(n−c, k) / C(n, k)."""
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise SrftError(f"pass@{k} needs 1 <= k <= n and 0 <= correct <= n; got n={n}, correct={correct}")
    return 1 - comb(n - correct, k) / comb(n, k)


def maj_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int, seed: int = 0) -> float:
    """The chance that the most frequent answer of k of the n samples is right, over the subsets of k samples (over
    `SUBSETS` drawn ones where there are more). None does not vote; a tie is drawn by lot.

    Args:
        answers: (n,) what each sample answered; equal strings vote together.
        right: (n,) which are right; right ones vote together however they are written.
    """
    n = len(answers)
    if not 1 <= k <= n or len(right) != n:
        raise SrftError(f"maj@{k} needs 1 <= k <= n answers; got n={n}")
    votes = [None if a is None and not r else _Vote(r, "" if r else a) for a, r in zip(answers, right, strict=True)]
    if comb(n, k) <= SUBSETS:
        subsets: Any = combinations(range(n), k)
    else:
        generator = np.random.default_rng(derive_seed(seed, "maj", n, k))
        subsets = (generator.choice(n, k, replace=False) for _ in range(SUBSETS))
    return fmean(_majority([votes[i] for i in subset]) for subset in subsets)


def _majority(votes: Sequence[_Vote | None]) -> float:
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    winners = [vote.is_right for vote, count in counts.items() if count == most]
    return sum(winners) / len(winners)


def bootstrap(
    values: Sequence[float], seed: int = 0, level: float = 0.95, weights: Sequence[float] | None = None
) -> Interval:
    """The percentile interval of the mean of `values` (one a problem) over resampled problems; with `weights`, of the
    sum of values over the sum of weights."""
    array = np.asarray(values, dtype=np.float64)
    below = np.ones_like(array) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(array):
        raise SrftError("no problem to resample", where="bootstrap", fix="Evaluate at least one.")
    generator = np.random.default_rng(derive_seed(seed, "bootstrap"))
    size, means = max(1, 2_000_000 // len(array)), []  # resamples at once: 12,000 problems fit in memory
    for done in range(0, RESAMPLES, size):
        drawn = generator.integers(len(array), size=(min(size, RESAMPLES - done), len(array)))
        means.append(array[drawn].sum(axis=1) / below[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
