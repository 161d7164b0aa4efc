"""The rows of a file that a run adds to line by line, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from srft.data.files import read_text


@dataclass(frozen=True)
class Rows:
    """What a file holds.

    Args:
        rows: in the order of steps, one of each key.
        faults: a line for each line of the file that is not as the run wrote it.
    """

    rows: list[dict[str, Any]]
    faults: list[str]


def read_rows(file: Path, key: Sequence[str]) -> Rows:
    """The rows of `file`; none where it is not there. A last line without its end is what a kill leaves, and no fault.

    Args:
        key: fields that name a row, `step` (an integer) the first of them. Of several with the same the last counts.

    Raises:
        SrftError: the file cannot be read.
    """
    if not file.exists():
        return Rows([], [])
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    faults, newest = [], -1
    lines = read_text(file, errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        where, row = f"{file.name}:{number}", _row(line, key)
        if row is None and (not line or number == len(lines)):
            continue
        if row is None:
            faults.append(f"{where} is no row of this run (torn, or another program's): it is left out")
            continue
        name = tuple(row[field] for field in key)
        if name in rows:
            faults.append(f"{where} is a second row of step {row['step']}: it takes the place of the first")
        elif row["step"] < newest:
            faults.append(f"{where}: step {row['step']} stands after step {newest}: they are put in order")
        rows[name] = row
        newest = max(newest, row["step"])
    return Rows(sorted(rows.values(), key=lambda row: row["step"]), faults)


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as text: "3-5, 9"."""
    runs = [list(run) for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0][1]}-{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs)


def _row(line: str, key: Sequence[str]) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and isinstance(row.get("step"), int)
    return row if whole and all(isinstance(row.get(field), int | str) for field in key) else None
