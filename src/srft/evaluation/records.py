"""Responses on disk as they come: a line each, whole groups only, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from srft.errors import SrftError

Record = dict[str, Any]


class RecordFile:
    """The responses to one benchmark: NAME.jsonl of the first process, NAME.rank1.jsonl of the second, ….

    Args:
        folder: of the evaluation.
        name: the benchmark's.
        samples: responses of a problem; a problem with fewer is sampled again, since its lines were cut by a kill.
    """

    def __init__(self, folder: Path, name: str, samples: int) -> None:
        self.folder, self.name, self.samples = folder, name, samples

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    def _parts(self) -> list[Path]:
        return [self.path, *sorted(self.folder.glob(f"{self.name}.rank*.jsonl"))]

    def read(self) -> dict[int, list[Record]]:
        """The whole groups on disk, by problem, slots in order."""
        groups: dict[int, dict[int, Record]] = defaultdict(dict)
        for part in self._parts():
            for line in part.read_text(encoding="utf-8").split("\n") if part.exists() else ():
                record = _parsed(line)
                if record is not None:
                    groups[record["problem"]].setdefault(record["sample"], record)
        return {
            problem: [group[slot] for slot in range(self.samples)]
            for problem, group in sorted(groups.items())
            if set(group) == set(range(self.samples))
        }

    def merge(self) -> dict[int, list[Record]]:
        """Put what all processes wrote into one file in the order of problems, without what a kill cut."""
        groups = self.read()
        text = "".join(_line(record) for group in groups.values() for record in group)
        replace(self.path, text)
        for part in self._parts()[1:]:
            part.unlink()
        return groups

    def append(self, records: Iterable[Mapping[str, Any]], rank: int) -> None:
        """Add lines and make sure that they are on disk."""
        part = self.path if rank == 0 else self.folder / f"{self.name}.rank{rank}.jsonl"
        with part.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, records)))
            file.flush()
            os.fsync(file.fileno())


def open_folder(folder: Path, settings: Mapping[str, Any], benchmarks: Mapping[str, Mapping[str, Any]]) -> None:
    """Start an evaluation in `folder`, or go on with the one there.

    Args:
        settings: what must be alike for all that lies there: model, protocol, seed.
        benchmarks: the same of each benchmark: problems, samples, where its rows come from.

    Raises:
        SrftError: it holds an evaluation with other settings, or cannot be written.
    """
    file = folder / "settings.json"
    try:
        known = json.loads(file.read_text()) if file.exists() else {"settings": {}, "benchmarks": {}}
    except ValueError:
        raise SrftError("not JSON", where=str(file), fix="Remove it, or name another --out.") from None
    old = known["settings"] or settings
    if different := sorted(key for key in {*old, *settings} if old.get(key) != settings.get(key)):
        key = different[0]
        raise SrftError(
            f"it holds an evaluation with {key} {old.get(key)!r}, not {settings.get(key)!r}",
            where=str(folder),
            fix="Name another --out, or give the options that it was begun with.",
        )
    for name, facts in benchmarks.items():
        before = known["benchmarks"].get(name, facts)
        if different := [key for key in facts if before.get(key) != facts[key]]:
            key = different[0]
            raise SrftError(
                f"it holds {name} with {key} {before.get(key)!r}, not {facts[key]!r}",
                where=str(folder),
                fix="Name another --out, or give the options that it was begun with.",
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        whole = {"settings": settings, "benchmarks": {**known["benchmarks"], **benchmarks}}
        replace(file, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise SrftError(f"cannot write there: {error}", where=str(folder), fix="Name another --out.") from None


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def flat(groups: Mapping[int, Sequence[Record]]) -> list[Record]:
    return [record for group in groups.values() for record in group]


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _parsed(line: str) -> Record | None:
    """A record; None for an empty line or one that a kill cut."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and {"problem", "sample", "score"} <= set(record) else None
