"""Responses on disk as they come: a line each, whole groups only, so that a killed evaluation continues."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from srft.data.files import append_rows, parse_json, read_text, read_whole_rows, write_json, write_rows
from srft.errors import SrftError

Record = dict[str, Any]
Groups = dict[int, list[Record]]  # a problem's number → its records, in the order of samples
_OTHER_FOLDER = "Name another --out, or give the settings that it was begun with."


class RecordFile:
    """The responses to one benchmark: NAME.jsonl of the first process, NAME.rank1.jsonl of the second, ….

    A record has `problem` and `sample` (numbers from 0), `prompt`, `gold`, `grader`, `response`, `answer` (as it was
    read), `tokens` (count), `truncated`, `reward`, `verdict`, what else the grader said, and where they were measured
    `entropy` (nats), `rbf` (tokens) and `logp` (nats), means over the response's tokens.

    Args:
        folder: of the evaluation.
        name: the benchmark's.
        n: responses of a problem; a problem with fewer is sampled again, since its lines were cut by a kill.
    """

    def __init__(self, folder: Path, name: str, n: int) -> None:
        self.folder, self.name, self.n = folder, name, n

    @property
    def path(self) -> Path:
        """The file of the first process, in the end of all."""
        return self.folder / f"{self.name}.jsonl"

    def _parts(self) -> list[Path]:
        return [self.path, *sorted(self.folder.glob(f"{glob.escape(self.name)}.rank*.jsonl"))]

    def read(self) -> Groups:
        """The whole groups on disk.

        Raises:
            SrftError: an earlier version wrote them, under other column names.
        """
        by_sample: dict[int, dict[int, Record]] = defaultdict(dict)
        for part in self._parts():
            for record in read_records(part):
                by_sample[record["problem"]].setdefault(record["sample"], record)
        return {
            problem: [group[sample] for sample in range(self.n)]
            for problem, group in sorted(by_sample.items())
            if set(group) == set(range(self.n))
        }

    def merge(self) -> Groups:
        """Put what all processes wrote into one file in the order of problems, without what a kill cut."""
        groups = self.read()
        write_rows(self.path, (record for group in groups.values() for record in group))
        for part in self._parts()[1:]:
            part.unlink()
        return groups

    def append(self, records: Iterable[Record], rank: int) -> None:
        """Add records and make sure that they are on disk."""
        append_rows(self.path if rank == 0 else self.folder / f"{self.name}.rank{rank}.jsonl", records, sync=True)


def read_records(path: Path) -> list[Record]:
    """The records of one file, without a line that a kill cut; none of no file.

    Raises:
        SrftError: an earlier version wrote them, under other column names.
    """
    rows = read_whole_rows(path)
    if any("score" in row and "reward" not in row for row in rows):
        raise SrftError(
            "its responses are in the columns of an earlier version (score, finished)",
            where=str(path),
            fix="Evaluate again, into another --out.",
        )
    kinds = {"problem": int, "sample": int, "reward": int | float}
    return [row for row in rows if all(isinstance(row.get(key), kind) for key, kind in kinds.items())]


def open_folder(folder: Path, settings: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """Start an evaluation in `folder`, or continue the one there.

    Args:
        settings: what must be alike for all that lies there: model, protocol, seed; empty where the caller knows.
        tasks: the same of each benchmark, by name: problems, samples, where its rows come from.

    Raises:
        SrftError: it holds an evaluation with other settings or of an earlier version, or cannot be written.
    """
    file = folder / "settings.json"
    known: dict[str, Any] = {"settings": {}, "benchmarks": {}}
    if file.exists():
        known = parse_json(read_text(file), str(file))
        if not isinstance(known, dict) or not all(
            isinstance(known.get(key), dict) for key in ("settings", "benchmarks")
        ):
            raise SrftError("not the settings of an evaluation", where=str(file), fix="Name another --out.")
        for name in known["benchmarks"]:
            read_records(folder / f"{name}.jsonl")
    if known["settings"] and settings:
        check_same("an evaluation", known["settings"], settings, folder)
    for name, facts in tasks.items():
        if isinstance(known["benchmarks"].get(name), dict):
            check_same(name, known["benchmarks"][name], facts, folder)
    whole = {"settings": dict(settings) or known["settings"], "benchmarks": {**known["benchmarks"], **tasks}}
    try:
        write_json(file, whole)
    except OSError as error:
        raise SrftError(f"cannot write there: {error}", where=str(folder), fix="Name another --out.") from None


def check_same(what: str, old: Mapping[str, Any], new: Mapping[str, Any], where: Path) -> None:
    """Whether `what`, which lies at `where`, was made with the same settings.

    Raises:
        SrftError: naming the first that differs.
    """
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            message = f"it holds {what} with {key} {old.get(key)!r}, not {new.get(key)!r}"
            raise SrftError(message, where=str(where), fix=_OTHER_FOLDER)
