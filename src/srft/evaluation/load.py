"""Benchmarks from the hub at their pinned revision, or from files: counted, hashed, as problems."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srft.data.load import load_problems
from srft.data.problem import Problem
from srft.data.read import read_file
from srft.errors import SrftError, reason
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


@dataclass(frozen=True)
class LoadedBenchmark:
    """The problems that were asked for, and where they came from."""

    problems: list[Problem]
    source: Source


@dataclass(frozen=True)
class _Rows:
    """Rows as they were published, and what `Source` says of them."""

    rows: Sequence[Any]
    place: str
    revision: str | None
    sha256: str


def load_benchmark(choice: Choice, *, data_dir: Path | None = None, seed: int = 0) -> LoadedBenchmark:
    """The problems of a benchmark, from `data_dir` where its file lies there, else from the hub.

    Args:
        seed: decides the order of multiple-choice options.

    Raises:
        SrftError: the file or the hub gives no such rows, another number of them, or rows of other columns.
    """
    benchmark = choice.benchmark
    if benchmark is None:
        return _own(choice)
    file = data_dir / benchmark.file if data_dir else None
    published = _read(file) if file is not None and file.is_file() else _hub(choice.name, benchmark, file)
    place, revision = published.place, published.revision
    rows = benchmark.prepare(published.rows)
    if len(rows) != benchmark.rows:
        raise SrftError(
            f"{choice.name} has {benchmark.rows} problems, found {len(rows)}",
            where=place,
            fix="It is cut, repeated (samples are drawn here) or of another version: fetch the published one.",
        )
    problems = [
        to_problem(choice.name, row, i, f"{place}, row {i}", seed) for i, row in enumerate(rows[: choice.limit])
    ]
    pinned = revision == benchmark.revision is not None
    return LoadedBenchmark(problems, Source(place, revision, pinned, published.sha256, len(rows)))


def _own(choice: Choice) -> LoadedBenchmark:
    """Read whole, so that the hash is of all rows whatever the limit."""
    path = str(choice.path)
    problems = load_problems(path, split=choice.split, options=choice.options, columns=choice.columns)
    digest = _hash(json.dumps([problem.prompt, problem.answer], default=str) for problem in problems)
    source = Source(path, None, False, digest, len(problems))
    return LoadedBenchmark(problems[: choice.limit], source)


def _hash(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _read(file: Path) -> _Rows:
    return _Rows([row for _, row in read_file(file)], str(file), None, hashlib.sha256(file.read_bytes()).hexdigest())


def _hub(name: str, benchmark: Benchmark, file: Path | None) -> _Rows:
    from datasets import load_dataset
    from huggingface_hub import HfApi

    try:
        revision = benchmark.revision or str(HfApi().dataset_info(benchmark.hub).sha)
        rows: Any = load_dataset(benchmark.hub, benchmark.config, split=benchmark.split, revision=revision)
    except Exception as error:  # datasets and the hub raise many kinds
        raise SrftError(
            f"the hub gave no {name}: {reason(error)}",
            where=benchmark.hub,
            fix=(f"{file} is not there either. " if file else "")
            + f"Check the connection and your access to it, or put {benchmark.file} into --data-dir.",
        ) from error
    rows = list(rows)
    digest = _hash(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str) for row in rows)
    return _Rows(rows, f"{benchmark.hub}@{revision}", revision, digest)
