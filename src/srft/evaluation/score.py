"""From the records of a benchmark to its scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import exp
from statistics import fmean
from typing import Any

from srft.evaluation.metrics import bootstrap, maj_at_k, pass_at_k
from srft.evaluation.records import Record, flat
from srft.verify.answer import plain_number

_LETTER = re.compile(r"(?:\\\w+\{|[^A-Za-z\\])*([A-Za-z])(?![A-Za-z])")


def score(groups: Mapping[int, Sequence[Record]], seed: int = 0, ks: Sequence[int] = ()) -> dict[str, Any]:
    """Everything that is reported of a benchmark. Shares are of 1, lengths in tokens, entropy in nats.

    Args:
        groups: the records of each problem, all of one size n.
        ks: for pass@k and maj@k; the powers of two up to n, and n, if left out.

    Returns:
        `problems`, `samples`, `avg`, its interval `avg_ci`, `pass@k`, `maj@k`, `pass_ci` (of pass@n), `unsolved` (the
        problems with no right answer in n samples), `response_length`, `truncated`, `no_answer`, `timeout`,
        `distinct_answers` (a problem, mean), and where they were measured `entropy`, `rbf`, `perplexity`.
    """
    n = len(next(iter(groups.values())))
    ks = sorted({*ks} or {1 << i for i in range(n.bit_length()) if 1 << i <= n} | {n})
    right = {problem: [r["score"] >= 1 for r in group] for problem, group in groups.items()}
    answers = {problem: [written(r["answer"], r.get("grader")) for r in group] for problem, group in groups.items()}
    records = flat(groups)
    found: dict[str, Any] = {"problems": len(groups), "samples": n}
    means = [fmean(r["score"] for r in group) for group in groups.values()]
    found |= {"avg": fmean(means), "avg_ci": bootstrap(means, seed)}
    for k in ks:
        found[f"pass@{k}"] = fmean(pass_at_k(n, sum(flags), k) for flags in right.values())
    found["pass_ci"] = bootstrap([float(any(flags)) for flags in right.values()], seed)
    if records[0].get("grader") != "ifeval":  # which has no answer to vote on
        for k in ks:
            found[f"maj@{k}"] = fmean(maj_at_k(answers[p], right[p], k, seed) for p in groups)
        found["maj_ci"] = bootstrap([maj_at_k(answers[p], right[p], n, seed) for p in groups], seed)
        found["distinct_answers"] = fmean(_distinct(answers[p], right[p]) for p in groups)
    found["unsolved"] = [problem for problem, flags in right.items() if not any(flags)]
    found |= {
        "response_length": fmean(r["tokens"] for r in records),
        "truncated": fmean(not r["finished"] for r in records),
        "no_answer": fmean(r["verdict"] == "unparsable" for r in records),
        "timeout": fmean(r["verdict"] == "timeout" for r in records),
    }
    if all("entropy" in r for r in records):
        found |= _over_tokens(records)
    if all("strict" in r for r in records):
        found |= _instructions(records)
    return found


def unsolved(groups: Mapping[int, Sequence[Record]], k: int) -> set[int]:
    """U_k: the problems that the first k samples all fail."""
    return {problem for problem, group in groups.items() if not any(r["score"] >= 1 for r in group[:k])}


def written(answer: str | None, grader: str | None = None) -> str | None:
    """An answer in the form in which equal ones vote together: of a choice the letter, a number as its value, else
    without blanks and case."""
    if answer is None:
        return None
    if grader == "choice":
        letter = _LETTER.match(answer)
        return letter[1].upper() if letter else None
    number = plain_number(answer)
    return str(number) if number is not None else re.sub(r"[\s$]|\\[ ,;!]", "", answer).casefold()


def _distinct(answers: Sequence[str | None], right: Sequence[bool]) -> int:
    return len({(r, "" if r else a) for a, r in zip(answers, right, strict=True) if a is not None or r})


def _over_tokens(records: Sequence[Record]) -> dict[str, float]:
    """Entropy and branching factor as means over tokens; perplexity as a mean over responses."""
    tokens = sum(r["tokens"] for r in records) or 1
    return {
        "entropy": sum(r["entropy"] * r["tokens"] for r in records) / tokens,
        "rbf": sum(r["rbf"] * r["tokens"] for r in records) / tokens,
        "perplexity": fmean(exp(min(-r["logp"], 700)) for r in records),
    }


def _instructions(records: Sequence[Record]) -> dict[str, float]:
    """IFEval's other three numbers."""
    return {
        "prompt_strict": fmean(r["strict"] for r in records),
        "instruction_loose": fmean(x for r in records for x in r["instructions_loose"]),
        "instruction_strict": fmean(x for r in records for x in r["instructions_strict"]),
    }
