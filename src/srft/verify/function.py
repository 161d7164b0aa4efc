"""Loads a user's own grader, `path/to/file.py:name`, with the signature of TRL's reward functions or of verl's."""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from srft.errors import SrftError
from srft.verify.grade import Grade, Request, Verdict

VERL = ("data_source", "solution_str", "ground_truth", "extra_info")


def check_function(spec: str) -> None:
    """Return nothing when `path/to/file.py:name` is well-formed and the file exists; it is not run.

    Raises:
        SrftError: it is malformed, or there is no such file.
    """
    path, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier():
        raise SrftError(f"'{spec}' names no function", where="verify.function", fix="Write path/to/file.py:name.")
    if not Path(path).is_file():
        raise SrftError("no such file", where=f"verify.function: {path}", fix="Check the path.")


def load_function(spec: str) -> Callable[[Request], Grade]:
    """The user's function `path/to/file.py:name`, taking a request. It runs the file: for a worker process alone.

    Raises:
        SrftError: see `check_function`.
        ValueError: the file defines no such function, or its signature is neither TRL's nor verl's.
        Exception: whatever the file raises.
    """
    check_function(spec)
    path, _, name = spec.rpartition(":")
    module_spec = importlib.util.spec_from_file_location(f"srft_user_{Path(path).stem}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"the file defines no function '{name}'")
    parameters = inspect.signature(function).parameters
    if "completions" in parameters:
        return lambda request: _grade(_as_trl(function, request))
    if "solution_str" in parameters:
        return lambda request: _grade(_as_verl(function, request, parameters))
    raise ValueError(
        f"'{name}' takes ({', '.join(parameters)}): give it TRL's (prompts, completions, **columns) or verl's "
        f"({', '.join(VERL)})"
    )


def describe(error: Exception) -> str:
    """One line for the user: what was raised, and in which line of which file."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({Path(last[0].filename).name}, line {last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {error}{place}"


def _as_trl(function: Callable[..., Any], request: Request) -> Any:
    chat = not isinstance(request.prompt, str)
    columns = {
        "answer": request.answer,
        "ground_truth": request.answer,
        "data_source": request.source,
        **request.metadata,
    }
    columns.pop("prompts", None)
    columns.pop("completions", None)
    scores = function(
        prompts=[request.prompt],
        completions=[[{"role": "assistant", "content": request.response}] if chat else request.response],
        **{name: [value] for name, value in columns.items()},
    )
    if not hasattr(scores, "__len__") or len(scores) != 1:
        raise TypeError(f"it was given one completion and returned {scores!r}, not a list of one number")
    return scores[0]


def _as_verl(function: Callable[..., Any], request: Request, parameters: Mapping[str, Any]) -> Any:
    values = dict(zip(VERL, (request.source, request.response, request.answer, dict(request.metadata)), strict=True))
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    score = function(**{name: value for name, value in values.items() if anything or name in parameters})
    return score["score"] if isinstance(score, Mapping) else score


def _grade(score: Any) -> Grade:
    try:
        reward = float(score)
    except (TypeError, ValueError):
        raise TypeError(f"it returned {score!r}, not a number") from None
    if not math.isfinite(reward):
        raise ValueError(f"it returned {reward}")
    return Grade(Verdict.RIGHT if reward >= 1 else Verdict.WRONG, reward)
