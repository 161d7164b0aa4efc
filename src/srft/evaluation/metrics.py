"""The metrics of a benchmark, one decorated function each: every result has them, the tables of `report.py` some."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp
from statistics import fmean
from typing import Any

from srft.evaluation.estimators import Interval, bootstrap, maj_at_k, pass_at_k
from srft.evaluation.records import Record
from srft.evaluation.token_statistics import SummedLoss
from srft.verify.answer import plain_number

_LETTER = re.compile(r"(?:\\\w+\{|[^A-Za-z\\])*([A-Za-z])(?![A-Za-z])")


@dataclass(frozen=True)
class GradedResponses:
    """All responses to a benchmark.

    Args:
        groups: by problem, its n records (see `RecordFile`).
        seed: of intervals and drawn subsets.
    """

    groups: Mapping[int, Sequence[Record]]
    seed: int = 0

    @property
    def n(self) -> int:
        """Responses of each problem."""
        return len(next(iter(self.groups.values())))

    @cached_property
    def records(self) -> list[Record]:
        """Every record."""
        return [record for group in self.groups.values() for record in group]

    @cached_property
    def right(self) -> dict[int, list[bool]]:
        """By problem, which responses are right."""
        return {problem: [r["verdict"] == "right" for r in group] for problem, group in self.groups.items()}

    @cached_property
    def answers(self) -> dict[int, list[str | None]]:
        """By problem, the answers in the form in which equal ones vote together; None where there is none."""
        return {
            problem: [normal_answer(r["answer"], r.get("grader")) for r in group]
            for problem, group in self.groups.items()
        }

    @property
    def has_answers(self) -> bool:
        """Whether there are answers to vote on: IFEval has none."""
        return self.records[0].get("grader") != "ifeval"

    def measured(self, column: str) -> bool:
        """Whether every record has that column."""
        return all(column in record for record in self.records)


MetricFunction = Callable[..., Any]


@dataclass(frozen=True)
class EvaluationMetric:
    """A registered metric.

    Args:
        name: in results; one that ends in `@k` is computed for several k.
        description: what it is, with its unit.
        function: of `GradedResponses`, and of k for `@k`, to a value; None where it does not apply.
    """

    name: str
    description: str
    function: MetricFunction


_METRICS: dict[str, EvaluationMetric] = {}


def evaluation_metric(name: str, description: str) -> Callable[[MetricFunction], MetricFunction]:
    """Register a metric; results list metrics in the order of their definition."""

    def register(function: MetricFunction) -> MetricFunction:
        _METRICS[name] = EvaluationMetric(name, description, function)
        return function

    return register


def evaluation_metrics() -> Mapping[str, EvaluationMetric]:
    """Every metric by name."""
    return dict(_METRICS)


def score(groups: Mapping[int, Sequence[Record]], seed: int = 0, ks: Sequence[int] = ()) -> dict[str, Any]:
    """Everything that is reported of a benchmark, by the names of `evaluation_metrics`.

    Args:
        groups: the records of each problem, all of one size n.
        ks: for pass@k and maj@k; the powers of two up to n, and n, if left out.
    """
    responses = GradedResponses(groups, seed)
    ks = sorted(ks) or _ks(responses.n)
    values: dict[str, Any] = {}
    for name, metric in _METRICS.items():
        if name.endswith("@k"):
            values |= {f"{name[:-1]}{k}": metric.function(responses, k) for k in ks}
        else:
            values[name] = metric.function(responses)
    return {name: value for name, value in values.items() if value is not None}


def _ks(n: int) -> list[int]:
    """The powers of two up to n, and n."""
    return sorted({1 << i for i in range(n.bit_length())} | {n})


def held_out_loss(parts: Sequence[SummedLoss]) -> dict[str, Any]:
    """The metrics of held-out demonstrations, from what each process has summed over its share of them."""
    nll = sum(part.nll for part in parts) / sum(part.tokens for part in parts)
    count = sum(part.demonstrations for part in parts)
    return {"demonstrations": count, "demo_nll": nll, "demo_perplexity": exp(min(nll, 700.0))}


def metric_names(n: int, *, sampled: bool = True, held_out: bool = False) -> list[str]:
    """The names of a benchmark's metrics that are one number.

    Args:
        n: samples of each problem.
        sampled, held_out: which kinds are measured.
    """
    names = [f"{name[:-1]}{k}" for name in _METRICS if name.endswith("@k") for k in _ks(n)]
    names += [name for name in _METRICS if not name.endswith(("@k", "_ci")) and name != "unsolved"]
    return (names if sampled else []) + (["demo_nll", "demo_perplexity"] if held_out else [])


def unsolved(groups: Mapping[int, Sequence[Record]], k: int) -> set[int]:
    """U_k: the problems that the first k samples all fail."""
    return {problem for problem, group in groups.items() if not any(r["verdict"] == "right" for r in group[:k])}


def normal_answer(answer: str | None, grader: str | None = None) -> str | None:
    """An answer in the form in which equal ones vote together: of a choice the letter, a number as its value, else
    without blanks and case."""
    if answer is None:
        return None
    if grader == "choice":
        letter = _LETTER.match(answer)
        return letter[1].upper() if letter else None
    number = plain_number(answer)
    return str(number) if number is not None else re.sub(r"[\s$]|\\[ ,;!]", "", answer).casefold()


@evaluation_metric("problems", "number of problems")
def _problems(s: GradedResponses) -> int:
    return len(s.groups)


@evaluation_metric("samples", "responses of each problem")
def _samples(s: GradedResponses) -> int:
    return s.n


def _means(s: GradedResponses) -> list[float]:
    return [fmean(r["reward"] for r in group) for group in s.groups.values()]


@evaluation_metric("avg", "mean reward over samples, then over problems (avg@n), of 1")
def _avg(s: GradedResponses) -> float:
    return fmean(_means(s))


@evaluation_metric("avg_ci", "95 % bootstrap interval of avg over problems")
def _avg_ci(s: GradedResponses) -> Interval:
    return bootstrap(_means(s), s.seed)


@evaluation_metric("pass@k", "chance that one of k samples is right, unbiased, of 1")
def _pass(s: GradedResponses, k: int) -> float:
    return fmean(pass_at_k(s.n, sum(flags), k) for flags in s.right.values())


@evaluation_metric("pass_ci", "95 % bootstrap interval of pass@n over problems")
def _pass_ci(s: GradedResponses) -> Interval:
    return bootstrap([float(any(flags)) for flags in s.right.values()], s.seed)


def _majorities(s: GradedResponses, k: int) -> list[float]:
    return [maj_at_k(s.answers[p], s.right[p], k, s.seed) for p in s.groups]


@evaluation_metric("maj@k", "chance that the most frequent answer of k samples is right, of 1")
def _maj(s: GradedResponses, k: int) -> float | None:
    return fmean(_majorities(s, k)) if s.has_answers else None


@evaluation_metric("maj_ci", "95 % bootstrap interval of maj@n over problems")
def _maj_ci(s: GradedResponses) -> Interval | None:
    return bootstrap(_majorities(s, s.n), s.seed) if s.has_answers else None


@evaluation_metric("distinct_answers", "different answers to a problem, mean")
def _distinct_answers(s: GradedResponses) -> float | None:
    if not s.has_answers:
        return None
    return fmean(
        len({(r, "" if r else a) for a, r in zip(s.answers[p], s.right[p], strict=True) if a is not None or r})
        for p in s.groups
    )


@evaluation_metric("unsolved", "the problems without a right answer in n samples, by number")
def _unsolved(s: GradedResponses) -> list[int]:
    return sorted(unsolved(s.groups, s.n))


@evaluation_metric("response_length", "tokens of a response, mean")
def _response_length(s: GradedResponses) -> float:
    return fmean(r["tokens"] for r in s.records)


@evaluation_metric("truncated", "share of responses cut at the length limit, of 1")
def _truncated(s: GradedResponses) -> float:
    return fmean(r["truncated"] for r in s.records)


@evaluation_metric("no_answer", "share of responses in which no answer could be read, of 1")
def _no_answer(s: GradedResponses) -> float:
    return fmean(r["verdict"] == "unparsable" for r in s.records)


@evaluation_metric("timeout", "share of answers that took too long to grade, which count as wrong, of 1")
def _timeout(s: GradedResponses) -> float:
    return fmean(r["verdict"] == "timeout" for r in s.records)


def _token_mean(s: GradedResponses, column: str) -> float | None:
    if not s.measured(column):
        return None
    return sum(r[column] * r["tokens"] for r in s.records) / (sum(r["tokens"] for r in s.records) or 1)


@evaluation_metric("entropy", "of the model's distribution at temperature 1, mean over tokens, nats")
def _entropy(s: GradedResponses) -> float | None:
    return _token_mean(s, "entropy")


@evaluation_metric("rbf", "branching factor: tokens that hold 95 % of the probability, mean over tokens")
def _rbf(s: GradedResponses) -> float | None:
    return _token_mean(s, "rbf")


@evaluation_metric("perplexity", "exp of the mean negative log-prob of a response's tokens, mean over responses")
def _perplexity(s: GradedResponses) -> float | None:
    return fmean(exp(min(-r["logp"], 700)) for r in s.records) if s.measured("logp") else None


@evaluation_metric("prompt_strict", "IFEval: share of responses that follow all instructions, strictly, of 1")
def _prompt_strict(s: GradedResponses) -> float | None:
    return fmean(r["strict"] for r in s.records) if s.measured("strict") else None


def _instruction_mean(s: GradedResponses, column: str) -> float | None:
    return fmean(x for r in s.records for x in r[column]) if s.measured(column) else None


@evaluation_metric("instruction_loose", "IFEval: share of instructions that are followed, loosely, of 1")
def _instruction_loose(s: GradedResponses) -> float | None:
    return _instruction_mean(s, "instructions_loose")


@evaluation_metric("instruction_strict", "IFEval: share of instructions that are followed, strictly, of 1")
def _instruction_strict(s: GradedResponses) -> float | None:
    return _instruction_mean(s, "instructions_strict")
