"""pass@k and maj@k against counting, the bootstrap against what is known, a benchmark's scores by hand."""

from __future__ import annotations

from itertools import combinations
from math import exp
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srft.errors import SrftError
from srft.evaluation.estimators import bootstrap, maj_at_k, pass_at_k
from srft.evaluation.metrics import (
    GradedResponses,
    evaluation_metric,
    evaluation_metrics,
    normal_answer,
    score,
    unsolved,
)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(sizes: tuple[int, int, int]) -> None:
    n, correct, k = sizes
    subsets = list(combinations([True] * correct + [False] * (n - correct), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_refuses_too_few_samples() -> None:
    with pytest.raises(SrftError):
        pass_at_k(4, 2, 8)


def majority_by_counting(votes: list[str | None], gold: str, k: int) -> float:
    """Over every subset: 1 if gold leads alone, a share of a tie, 0 if another leads or none voted."""
    total, count = 0.0, 0
    for subset in combinations(votes, k):
        count += 1
        tally = {v: subset.count(v) for v in subset if v is not None}
        leaders = [v for v, c in tally.items() if c == max(tally.values())]
        total += (gold in leaders) / len(leaders) if leaders else 0
    return total / count


@given(
    st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=7).flatmap(
        lambda votes: st.tuples(st.just(votes), st.integers(1, len(votes)))
    )
)
def test_maj_at_k_is_the_share_of_subsets_that_vote_right(case: tuple[list[str | None], int]) -> None:
    votes, k = case
    assert maj_at_k(votes, [v == "1" for v in votes], k) == pytest.approx(majority_by_counting(votes, "1", k))


def test_right_answers_vote_together_however_they_are_written() -> None:
    assert maj_at_k(["1/2", "0.5", "3", "3"], [True, True, False, False], 4) == 0.5
    assert maj_at_k(["1/2", "0.5", "3", "4"], [True, True, False, False], 4) == 1


def test_maj_at_k_draws_subsets_where_there_are_many() -> None:
    votes = ["1"] * 20 + ["2"] * 12
    right = [v == "1" for v in votes]
    assert maj_at_k(votes, right, 32) == 1
    assert maj_at_k(votes, right, 1) == pytest.approx(20 / 32)
    assert maj_at_k(votes, right, 8) == maj_at_k(votes, right, 8)
    assert maj_at_k(votes, right, 16) > maj_at_k(votes, right, 4) > 20 / 32


def test_bootstrap_is_the_normal_interval_for_many_problems() -> None:
    values = [1.0] * 300 + [0.0] * 700
    low, high = bootstrap(values)
    error = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert low == pytest.approx(0.3 - error, abs=0.003)
    assert high == pytest.approx(0.3 + error, abs=0.003)
    assert bootstrap(values) == (low, high)
    assert bootstrap([0.5]) == (0.5, 0.5)
    with pytest.raises(SrftError):
        bootstrap([])


def record(reward: float, answer: str | None, **more: Any) -> dict[str, Any]:
    return {
        "reward": reward, "answer": answer, "verdict": "unparsable" if answer is None else "right" if reward else "wrong",
        "tokens": 10, "truncated": False, "entropy": 0.5, "rbf": 2.0, "logp": -0.5, **more,
    }  # fmt: skip


def test_scores_of_a_benchmark_by_hand() -> None:
    groups = {
        0: [record(1, "7"), record(1, "7.0"), record(0, "8"), record(0, None, truncated=True)],
        1: [record(0, "x"), record(0, " $X$"), record(0, "y"), record(0, "y", tokens=30, entropy=1.5)],
    }
    result = score(groups)
    assert (result["problems"], result["samples"], result["avg"]) == (2, 4, 0.25)
    assert result["pass@1"] == 0.25
    assert result["pass@2"] == pytest.approx((1 - 1 / 6) / 2)
    assert result["pass@4"] == result["maj@4"] == 0.5
    assert result["unsolved"] == [1]
    assert result["distinct_answers"] == 2
    assert result["truncated"] == result["no_answer"] == 1 / 8
    assert result["response_length"] == 100 / 8
    assert result["entropy"] == pytest.approx((70 * 0.5 + 30 * 1.5) / 100)
    assert result["perplexity"] == pytest.approx(exp(0.5))
    assert unsolved(groups, 4) == {1}
    assert unsolved({0: groups[0][::-1]}, 2) == {0}


@pytest.mark.parametrize(("answer", "form"), [("1,000", "1000"), ("2.50", "5/2"), (" \\,A ", "a"), (None, None)])
def test_equal_answers_are_written_alike(answer: str | None, form: str | None) -> None:
    assert normal_answer(answer) == form


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("C", "C"), ("(b)", "B"), ("\\text{D}", "D"), ("\\textbf{(A) nine}", "A"), ("A: Paris", "A"), ("Paris", None)],
)
def test_choices_vote_by_their_letter(answer: str, letter: str | None) -> None:
    assert normal_answer(answer, "choice") == letter


def test_a_metric_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srft.evaluation.metrics._METRICS", dict(evaluation_metrics()))

    @evaluation_metric("longest", "tokens of the longest response")
    def longest(s: GradedResponses) -> int:
        return max(r["tokens"] for r in s.records)

    groups = {0: [record(1, "7"), record(0, "8", tokens=30)]}
    assert score(groups)["longest"] == 30
    assert all(metric.description for metric in evaluation_metrics().values())
    known = {name.removesuffix("@k") for name in evaluation_metrics()}
    assert {name.partition("@")[0] for name in score(groups)} <= known


def test_instructions_have_shares_of_their_own_and_no_vote() -> None:
    flags = {
        "grader": "ifeval",
        "strict": False,
        "instructions_loose": [True, True],
        "instructions_strict": [True, False],
    }
    values = score({0: [record(1, None, **flags)], 1: [record(0, None, **flags)]})
    assert (values["avg"], values["prompt_strict"]) == (0.5, 0)
    assert (values["instruction_loose"], values["instruction_strict"]) == (1, 0.5)
    assert not {"maj@1", "maj_ci", "distinct_answers"} & set(values)
