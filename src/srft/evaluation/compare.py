"""Against the papers' tables, and against another evaluation of the same problems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from srft.data.files import parse_json, read_text
from srft.errors import SrftError, did_you_mean, reason
from srft.evaluation.estimators import bootstrap
from srft.evaluation.records import read_records


@cache
def paper_tables() -> Mapping[str, Mapping[str, Any]]:
    """The papers' tables by name: title, note, columns (benchmarks) and rows (methods) in percent."""
    return yaml.safe_load((resources.files("srft") / "evaluation" / "papers.yaml").read_text(encoding="utf-8"))


def check_against(names: str | Sequence[str]) -> list[str]:
    """The names as a list (a string has commas between them), each one a table of a paper or a folder with results.

    Raises:
        SrftError: one is neither.
    """
    chosen = [name.strip() for name in (names.split(",") if isinstance(names, str) else names) if name.strip()]
    for name in chosen:
        table, _, row = name.partition(":")
        if table in paper_tables():
            if row and row not in (rows := paper_tables()[table]["rows"]):
                raise SrftError(f"{table} has no row '{row}'", where="--against", fix=did_you_mean(row, rows))
        elif not (Path(name) / "results.json").is_file():
            raise SrftError(
                f"'{name}' is neither a paper's table nor a folder with results.json",
                where="--against",
                fix=did_you_mean(table, paper_tables()),
            )
    return chosen


def compare(name: str, results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One comparison: what it is against, and by row (a method of the paper, or the other model) and benchmark the
    other score, the difference (ours less theirs) in percent, and for another evaluation the interval of the difference
    over the problems both have, and how far the sets of unsolved problems overlap (Jaccard)."""
    table, _, row = name.partition(":")
    if table in paper_tables():
        return _paper(table, row, results)
    return _other(Path(name), results, folder)


def _paper(table: str, row: str, results: Mapping[str, Any]) -> dict[str, Any]:
    paper, rows = paper_tables()[table], {}
    for method, values in paper["rows"].items():
        theirs = dict(zip(paper["columns"], values, strict=True))
        cells = {
            benchmark: {"score": theirs[benchmark], "difference": 100 * ours["avg"] - theirs[benchmark]}
            for benchmark, ours in results["benchmarks"].items()
            if theirs.get(benchmark) is not None and "avg" in ours
        }
        if cells and row in ("", method):
            rows[method] = cells
    return {"against": table, "title": paper["title"], "note": paper.get("note"), "rows": rows}


def _other(other: Path, results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    file = other / "results.json"
    theirs = parse_json(read_text(file), str(file))
    try:
        return _cells(other, theirs, results, folder)
    except (LookupError, TypeError, AttributeError) as error:
        what = f"not the results of `srft eval`: {reason(error)}"
        raise SrftError(what, where=str(file), fix="Name another folder in --against.") from None


def _cells(other: Path, theirs: Mapping[str, Any], results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    cells = {}
    for benchmark, ours in results["benchmarks"].items():
        if benchmark not in theirs["benchmarks"]:
            continue
        mine, yours = _means(folder, benchmark), _means(other, benchmark)
        both = sorted(set(mine) & set(yours))
        if not both or ours["source"]["sha256"] != theirs["benchmarks"][benchmark]["source"]["sha256"]:
            continue
        differences = [100 * (mine[p] - yours[p]) for p in both]
        failed = {p for p in both if p in ours["unsolved"]}, set(theirs["benchmarks"][benchmark]["unsolved"]) & {*both}
        union = failed[0] | failed[1]
        cells[benchmark] = {
            "score": 100 * sum(yours[p] for p in both) / len(both),
            "difference": sum(differences) / len(both),
            "difference_ci": bootstrap(differences),
            "problems": len(both),
            "unsolved_overlap": len(failed[0] & failed[1]) / len(union) if union else 1.0,
        }
    return {
        "against": str(other), "title": f"{theirs['settings']['model']} ({other})", "note": None,
        "rows": {theirs["settings"]["model"]: cells} if cells else {},
    }  # fmt: skip


def _means(folder: Path, benchmark: str) -> dict[int, float]:
    """The mean reward of each problem's responses."""
    rewards: dict[int, list[float]] = defaultdict(list)
    for record in read_records(folder / f"{benchmark}.jsonl"):
        rewards[record["problem"]].append(record["reward"])
    return {problem: sum(values) / len(values) for problem, values in rewards.items()}
