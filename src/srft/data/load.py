"""Problems from files, folders, the hub, generators, rows in memory, and mixes of these."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from srft.data.files import check_value
from srft.data.problem import Problem
from srft.data.read import read_rows
from srft.data.reasoning_gym import generate
from srft.data.rows import to_problem
from srft.data.settings import Columns, DataSettings
from srft.errors import SrftError, did_you_mean
from srft.seed import derive_seed


def resolve_path(path: str) -> str:
    """The real path of what ships in a package: `srft:NAME` in this one's embedded folder, `package:NAME/FILE` in
    another installed one (which is not imported). Any other path is returned as it is."""
    if path.startswith("srft:"):
        return str(resources.files("srft") / "embedded" / path.removeprefix("srft:"))
    if path.startswith("package:"):
        package, _, file = path.removeprefix("package:").partition("/")
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):  # no name of a package
            spec = None
        if spec is None or not spec.submodule_search_locations:
            name = package.replace("_", "-")
            raise SrftError(f"the package {name} is not installed", where=path, fix=f"pip install --no-deps {name}")
        return str(Path(spec.submodule_search_locations[0]) / file)
    return path


def load_problems(
    path: str,
    *,
    split: str = "train",
    limit: int | None = None,
    options: Mapping[str, Any] = {},
    columns: Columns = Columns(),
) -> list[Problem]:
    """The problems of a local file or folder, of `srft:…`, of a generated `reasoning-gym:TASK` (options: size, seed and
    the task's own) or of a hub data set (options: name, revision; those of `datasets.load_dataset`).

    Args:
        split: of a folder or a hub data set.
        columns: which column holds what, where the names are not known ones.

    Raises:
        SrftError: naming file and row, for what is missing, empty, malformed or of no known columns.
    """
    if path.startswith("reasoning-gym:"):
        problems = list(islice(generate(path, options), limit))
    else:
        local = _expanded(resolve_path(path))
        problems = _problems(islice(read_rows(local, path, split, options), limit), columns, path)
    if not problems:
        raise SrftError("no rows", where=path, fix="Give a file with at least one problem.")
    return problems


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~NOBODY
        raise SrftError(str(error), where=path, fix="Check the path.") from None


def problems_from_rows(
    rows: Iterable[Mapping[str, Any]], *, columns: Columns = Columns(), name: str = "data"
) -> list[Problem]:
    """The problems of rows in memory: a list of dicts, a `datasets.Dataset` or a pandas DataFrame.

    Args:
        name: what errors call the rows.

    Raises:
        SrftError: as `load_problems`.
    """
    problems = _problems(place_rows(rows, name), columns, name)
    if not problems:
        raise SrftError("no rows", where=name, fix="Give at least one problem.")
    return problems


def place_rows(rows: Iterable[Any], name: str = "data") -> Iterable[tuple[str, Any]]:
    """(`name, row i`, row) of every row in memory.

    Raises:
        SrftError: these are not rows, but a mapping of splits or of columns; as `check_value`.
    """
    if hasattr(rows, "iterrows"):  # a pandas DataFrame
        rows = [dict(row) for _, row in rows.iterrows()]
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        held = f"{type(rows).__name__} of {', '.join(map(str, rows))}" if isinstance(rows, Mapping) else repr(rows)
        raise SrftError(f"not a list of rows: {held}", where=name, fix="Give one split, or a list of dicts.")
    return (_checked(f"{name}, row {i}", row) for i, row in enumerate(rows))


def _checked(where: str, row: Any) -> tuple[str, Any]:
    check_value(row, where)
    return where, row


def json_rows(rows: Iterable[Any], name: str = "data") -> list[Any]:
    """Rows in memory as JSON holds them: arrays as lists, dates and the like as text.

    Raises:
        SrftError: as `place_rows`; a row cannot be written.
    """
    plain = []
    for where, row in place_rows(rows, name):
        try:
            plain.append(json.loads(json.dumps(row, default=lambda x: x.tolist() if hasattr(x, "tolist") else str(x))))
        except (TypeError, ValueError) as error:
            raise SrftError(f"a row that JSON cannot hold: {error}", where=where, fix="Give plain values.") from None
    return plain


def load_data(data: DataSettings, seed: int) -> list[Problem]:
    """The problems of a recipe's `data` section: of its path, or of each path of its mix as often as its weight says.

    Args:
        seed: decides which rows a weight that is no whole number leaves out.

    Raises:
        SrftError: as `load_problems`; the section names no data; a weight leaves nothing of a path.
    """
    if data.path is None and not data.mix:
        fix = "Give data.path or data.mix; in Python also train(recipe, data=rows)."
        raise SrftError("no data is named", where="data.path", fix=fix)
    if data.path is not None:
        return load_problems(data.path, split=data.split, limit=data.limit, options=data.options, columns=data.columns)
    problems: list[Problem] = []
    for number, part in enumerate(data.mix):
        read = load_problems(
            part.path,
            split=part.split or data.split,
            limit=part.limit or data.limit,
            options=data.options if part.options is None else part.options,
            columns=part.columns or data.columns,
        )
        if part.source is not None:
            read = [replace(problem, source=part.source) for problem in read]
        problems += _weighted(read, part.weight, derive_seed(seed, "mix", number), part.path)
    return problems


def _problems(rows: Iterable[tuple[str, Any]], columns: Columns, name: str) -> list[Problem]:
    placed = list(rows)
    known = dict.fromkeys(key for _, row in placed if isinstance(row, Mapping) for key in row)
    for role, column in columns:
        if column is not None and placed and column not in known:
            listed = ", ".join(map(str, known)) or "none"
            what = f"there is no column '{column}', which columns.{role} names; there are {listed}"
            raise SrftError(what, where=name, fix=did_you_mean(column, map(str, known)))
    return [to_problem(row, where, columns) for where, row in placed]


def _weighted(problems: list[Problem], weight: float, seed: int, path: str) -> list[Problem]:
    """Every problem `weight` times; of a fraction that share of them, drawn at random, in their order."""
    times, share = divmod(weight, 1)
    drawn = sorted(random.Random(seed).sample(range(len(problems)), round(share * len(problems))))
    weighted = problems * int(times) + [problems[i] for i in drawn]
    if not weighted:
        what = f"a weight of {weight:g} leaves none of {len(problems)} rows"
        raise SrftError(what, where=f"data.mix: {path}", fix="Raise the weight, or leave the path out.")
    return weighted
