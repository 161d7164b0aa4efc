"""Benchmarks from the hub at their pinned revision, or from files: counted, hashed, as problems."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srft.data import Problem, load_problems
from srft.errors import SrftError
from srft.evaluation.benchmarks import Benchmark, Choice, to_problem


@dataclass(frozen=True)
class Source:
    """Where the problems came from, for the result.

    Args:
        place: the hub id with its revision, or the file.
        revision: the commit of the hub's data set; None for a file.
        pinned: the revision is the one that the table of benchmarks names.
        sha256: of the file; of the rows as JSON when they came from the hub, of prompts and answers for a user's own.
        rows: of the whole benchmark.
    """

    place: str
    revision: str | None
    pinned: bool
    sha256: str
    rows: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def load_benchmark(choice: Choice, *, data_dir: Path | None = None, seed: int = 0) -> tuple[list[Problem], Source]:
    """The problems of a benchmark, from `data_dir` where its file lies there, else from the hub.

    Raises:
        SrftError: the file or the hub gives no such rows, another number of them, or rows of other columns.
    """
    benchmark = choice.benchmark
    if benchmark is None:
        return _own(choice)
    file = data_dir / benchmark.file if data_dir else None
    if file is not None and file.is_file():
        raw = file.read_bytes()
        found: Sequence[Any] = _read(file)
        place, revision, sha256 = str(file), None, hashlib.sha256(raw).hexdigest()
    else:
        found, revision = _hub(choice.name, benchmark, file)
        place = f"{benchmark.hub}@{revision}"
        digest = hashlib.sha256()
        for row in found:
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
        sha256 = digest.hexdigest()
    rows = benchmark.prepare(found)
    if len(rows) != benchmark.rows:
        raise SrftError(
            f"{choice.name} has {benchmark.rows} problems, found {len(rows)}",
            where=place,
            fix="It is cut, repeated (samples are drawn here) or of another version: fetch the published one.",
        )
    problems = [
        to_problem(choice.name, row, i, f"{place}, row {i}", seed) for i, row in enumerate(rows[: choice.limit])
    ]
    return problems, Source(place, revision, revision == benchmark.revision is not None, sha256, len(rows))


def _own(choice: Choice) -> tuple[list[Problem], Source]:
    path = str(choice.path)
    problems = load_problems(path, split="test")
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.prompt, problem.answer], default=str).encode() + b"\n")
    return problems[: choice.limit], Source(path, None, False, digest.hexdigest(), len(problems))


def _read(file: Path) -> Sequence[Any]:
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file).to_pylist()
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            return list(csv.DictReader(text.splitlines(keepends=True)))
        if file.suffix == ".json":
            whole = json.loads(text)
            return whole if isinstance(whole, list) else [whole]
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, OSError) as error:
        raise SrftError(f"cannot be read: {error}", where=str(file), fix="Fetch the file anew.") from None


def _hub(name: str, benchmark: Benchmark, file: Path | None) -> tuple[Sequence[Any], str]:
    from datasets import load_dataset
    from huggingface_hub import HfApi

    try:
        revision = benchmark.revision or str(HfApi().dataset_info(benchmark.hub).sha)
        rows = load_dataset(benchmark.hub, benchmark.config, split=benchmark.split, revision=revision)
    except Exception as error:  # datasets and the hub raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SrftError(
            f"the hub gave no {name}: {reason}",
            where=benchmark.hub,
            fix=(f"{file} is not there either. " if file else "")
            + f"Check the connection and your access to it, or put {benchmark.file} into --data-dir.",
        ) from error
    return list(rows), revision
