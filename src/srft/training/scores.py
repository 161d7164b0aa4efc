"""Evaluations as tables: the scores at one step, and what they were before and after training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from srft.evaluation.report import Table

Row = Mapping[str, Any]  # of evaluations.jsonl
DEMONSTRATIONS = {"demo_nll": ("NLL", ".3f"), "demo_perplexity": ("perplexity", ".2f")}  # of a set's demonstrations


def score_table(rows: Sequence[Row]) -> Table:
    """The evaluation of one step; scores in percent."""
    return _table(
        f"evaluation at step {rows[0]['step']}",
        {row["benchmark"]: {"problems": str(row.get("problems", "")), **_cells(row)} for row in rows},
    )


def change_table(rows: Sequence[Row]) -> Table:
    """Each set's scores in its first and its last evaluation: "12.3 → 50.6 %"; "12.3 %" where there is one alone."""
    first = {row["benchmark"]: row for row in reversed(rows)}
    last = {row["benchmark"]: row for row in rows}
    steps = dict.fromkeys([min(row["step"] for row in first.values()), max(row["step"] for row in last.values())])
    return _table(
        f"evaluation at step {' → '.join(map(str, steps))}",
        {name: _cells(row) if row is first[name] else _changed(first[name], row) for name, row in last.items()},
    )


def _table(title: str, sets: Mapping[str, Mapping[str, str]]) -> Table:
    """A row a set, without columns that none of them has."""
    columns = list(dict.fromkeys(name for cells in sets.values() for name in cells))
    return Table(title, ["", *columns], [[name, *_row(cells, columns)] for name, cells in sets.items()])


def _row(cells: Mapping[str, str], columns: Iterable[str]) -> list[str]:
    return [cells.get(name, "") for name in columns]


def _changed(first: Row, last: Row) -> dict[str, str]:
    before, after = _cells(first), _cells(last)
    return {
        name: value if name == "k" or name not in before else f"{before[name].removesuffix(' %')} → {value}"
        for name, value in after.items()
    }


def _cells(row: Row) -> dict[str, str]:
    of_demonstrations = {name: f"{row[key]:{form}}" for key, (name, form) in DEMONSTRATIONS.items() if key in row}
    if "avg" not in row:
        return of_demonstrations
    k = row["samples"]
    return {
        "k": str(k),
        "avg@k": f"{100 * row['avg']:.1f} %",
        "pass@k": f"{100 * row[f'pass@{k}']:.1f} %",
        "length": f"{row['response_length']:.0f}",
        **of_demonstrations,
    }
