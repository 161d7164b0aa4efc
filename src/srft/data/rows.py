"""A row of a data set as a problem, from the columns that TRL, verl, Alpaca, ShareGPT, GSM8K and the benchmarks use."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from srft.data.messages import has_user, read_messages
from srft.data.problem import Problem
from srft.data.settings import Columns
from srft.data.template import as_messages
from srft.errors import SrftError

PROMPTS = ("prompt", "problem", "question", "instruction", "messages", "conversations")
ANSWERS = ("answer", "final_answer", "ground_truth", "gold")
DEMONSTRATIONS = ("demonstrations", "chosen", "completion", "target", "gemini_thinking_trajectory", "solution")
ALPACA = ("output",)  # a demonstration where there is an instruction
Row = Mapping[str, Any]
Prompt = str | tuple[Mapping[str, str], ...]


def to_problem(row: Any, where: str, columns: Columns = Columns()) -> Problem:
    """A row as a problem; `metadata` holds all of its columns.

    Args:
        columns: where the names of columns are not known ones.

    Raises:
        SrftError: the row is of no known columns, or one of them holds what cannot be read.
    """
    if not isinstance(row, Mapping):
        what = f"a row is an object of columns, found {type(row).__name__}"
        raise SrftError(what, where=where, fix="Correct that row.")
    row = {str(name): _plain(value) for name, value in row.items()}
    for name in ("image", "images"):
        if row.get(name):
            raise SrftError(f"column '{name}' holds images", where=where, fix="Only text is trained on: leave it out.")
    prompt, turn = _prompt(row, where, columns)
    prompt, demonstrations = _demonstrations(row, prompt, where, columns)
    if prompt is None:
        raise _no_prompt(row, where)
    demonstrations = demonstrations or turn
    rejected = ""
    if (name := columns.rejected or "rejected") in row and not _is_missing(row[name]):
        context, rejected = _response(row[name], prompt, name, where)
        if context != prompt:
            fix = "Give both the same turns before the last one."
            raise SrftError(f"column '{name}' answers another conversation", where=where, fix=fix)
    system = row.get(columns.system or "system")
    if prompt and not _is_missing(system) and as_messages(prompt)[0]["role"] != "system":
        prompt = ({"role": "system", "content": _text(system, columns.system or "system", where)}, *as_messages(prompt))
    answer = _answer(row, where, columns)
    if answer is not None and "####" in answer:  # GSM8K: the worked solution, then its value
        worked, _, value = answer.rpartition("####")
        answer = value.strip().replace(",", "")
        worked = re.sub(r"<<.*?>>", "", worked).strip()
        demonstrations = demonstrations or [f"{worked}\nThe answer is \\boxed{{{answer}}}."]
    if answer is None:
        answer = next((boxed for text in demonstrations if (boxed := _last_boxed(text))), "")
    source = row.get(columns.source) if columns.source else row.get("data_source") or row.get("source")
    return Problem(prompt, answer, tuple(demonstrations), rejected, source=str(source or ""), metadata=row, where=where)


def _prompt(row: Row, where: str, columns: Columns) -> tuple[Prompt | None, list[str]]:
    """The prompt, None where no column holds one by itself; and the assistant's last turn, where a chat ends in it."""
    filled, there = [n for n in PROMPTS if not _is_missing(row.get(n))], [n for n in PROMPTS if n in row]
    name = columns.prompt or next(iter(filled + there), None)
    if name is None:
        text = row.get("text")
        return ("", [text]) if isinstance(text, str) and text.strip() else (None, [])
    value = row.get(name)
    if isinstance(value, list | tuple):
        messages = read_messages(value, name, where)
        ended = messages[-1]["role"] == "assistant"
        prompt, turn = (messages[:-1], messages[-1]["content"]) if ended else (messages, "")
        if not has_user(prompt):
            raise SrftError(f"column '{name}' holds no prompt", where=where, fix="Begin it with the user's message.")
        return prompt, [turn] * bool(turn.strip())
    text = _text(value, name, where)
    if name == "instruction" and not _is_missing(row.get("input")):  # Alpaca
        text = f"{text}\n\n{_text(row['input'], 'input', where)}"
    return text, []


def _demonstrations(row: Row, prompt: Prompt | None, where: str, columns: Columns) -> tuple[Prompt | None, list[str]]:
    """The expert's responses, and the prompt that they answer: with the turns before the last where there are more."""
    known = [columns.demonstration] if columns.demonstration else [*DEMONSTRATIONS, *ALPACA * ("instruction" in row)]
    name = next((n for n in known if not _is_missing(row.get(n))), None)
    if name is None or (name == "completion" and row.get("label") is False):  # TRL: a completion that is a bad one
        return prompt, []
    value = row[name]
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return prompt, [one for one in value if one.strip()]
    context, text = _response(value, prompt, name, where)
    return context, [text] * bool(text.strip())


def _response(value: Any, prompt: Prompt | None, name: str, where: str) -> tuple[Prompt | None, str]:
    """A response and the prompt that it answers. Messages that begin with the assistant's go on from the prompt; others
    are the whole conversation."""
    if not isinstance(value, list | tuple):
        return prompt, _text(value, name, where)
    messages = read_messages(value, name, where)
    if messages[-1]["role"] != "assistant":
        what = f"column '{name}' ends with the message of the {messages[-1]['role']}"
        raise SrftError(what, where=where, fix="End it with the assistant's.")
    context, text = messages[:-1], messages[-1]["content"]
    if messages[0]["role"] != "assistant":
        return context, text
    return ((*as_messages(prompt), *context) if context and prompt is not None else prompt), text


def _answer(row: Row, where: str, columns: Columns) -> str | None:
    if columns.answer:
        value = row.get(columns.answer)
    else:
        reward_model = row.get("reward_model")
        value = _plain(reward_model.get("ground_truth")) if isinstance(reward_model, Mapping) else None
        if isinstance(value, Mapping):  # verl: for a reward function that knows its keys
            value = json.dumps(value, ensure_ascii=False)
        if _is_missing(value):
            value = next((row[name] for name in ANSWERS if not _is_missing(row.get(name))), None)
    if _is_missing(value):
        return None
    if isinstance(value, list | tuple):
        value = ", ".join(str(v).strip("$ ") for v in value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or value in (math.inf, -math.inf) or not isinstance(value, str | int | float):
        what = f"the answer is a {type(value).__name__}, {value!r}"
        raise SrftError(what, where=where, fix="Give it as text or a number.")
    return str(value).strip()


def _no_prompt(row: Row, where: str) -> SrftError:
    return SrftError(
        f"no prompt column among {', '.join(row) or 'none'}",
        where=where,
        fix=f"Name it one of {', '.join(PROMPTS)}, or say which it is: data.columns.prompt.",
    )


def _plain(value: Any) -> Any:
    """A value of Python's own types; a number that is none (pandas' NaN) is missing."""
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        value = value.tolist()
    return None if isinstance(value, float) and math.isnan(value) else value


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, list | tuple) and not value)
    )


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        what = "empty" if value is None or isinstance(value, str) else f"{type(value).__name__} {value!r}"
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
