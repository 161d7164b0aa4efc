"""Evaluations as tables."""

from __future__ import annotations

from typing import Any

from srft.training.scores import change_table, score_table


def row(step: int, benchmark: str, avg: float, **more: Any) -> dict[str, Any]:
    scores = {"avg": avg, "pass@4": 2 * avg, "samples": 4, "problems": 10, "response_length": 31.6}
    return {"step": step, "benchmark": benchmark, **scores, **more}


LOSS = {"benchmark": "held-out", "demo_nll": 1.23456, "demo_perplexity": 3.437}


def test_scores_before_and_after() -> None:
    """The first and the last evaluation of each set count, whatever lies between; one may have come later."""
    rows = [row(0, "a", 0.1), row(10, "a", 0.4), row(10, "b", 0.2), row(20, "a", 0.3), row(20, "b", 0.25)]
    table = change_table(rows)
    assert table.title == "evaluation at step 0 → 20"
    assert table.head == ["", "k", "avg@k", "pass@k", "length"]
    assert table.body[0] == ["a", "4", "10.0 → 30.0 %", "20.0 → 60.0 %", "32 → 32"]
    assert table.body[1] == ["b", "4", "20.0 → 25.0 %", "40.0 → 50.0 %", "32 → 32"]


def test_one_evaluation_alone_has_no_arrow() -> None:
    table = change_table([row(0, "a", 0.1)])
    assert table.title == "evaluation at step 0"
    assert table.body == [["a", "4", "10.0 %", "20.0 %", "32"]]


def test_a_set_with_a_loss_alone_has_its_own_columns() -> None:
    table = score_table([row(5, "a", 0.1), {"step": 5, **LOSS}])
    assert table.head == ["", "problems", "k", "avg@k", "pass@k", "length", "NLL", "perplexity"]
    assert table.body[1] == ["held-out", "", "", "", "", "", "1.235", "3.44"]
    after = {"step": 9, **LOSS, "demo_nll": 1.0}
    assert change_table([{"step": 5, **LOSS}, after]).body == [["held-out", "1.235 → 1.000", "3.44 → 3.44"]]
