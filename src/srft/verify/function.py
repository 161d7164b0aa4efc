"""A grader of the user's own: `path/to/file.py:name`, with TRL's signature of a reward function or verl's."""

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

VERL = ("data_source", "solution_str", "ground_truth", "extra_info")


def check_function(spec: str) -> None:
    """Whether `path/to/file.py:name` can be the name of a grader; the file is not run.

    Raises:
        SrftError: it is malformed, or there is no such file.
    """
    path, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier():
        raise SrftError(f"'{spec}' names no function", where="verify.function", fix="Write path/to/file.py:name.")
    if not Path(path).is_file():
        raise SrftError("no such file", where=f"verify.function: {path}", fix="Check the path.")


def load_function(spec: str) -> Callable[[Mapping[str, Any]], tuple[str, float]]:
    """The user's function as a grader of our requests. Runs the file; meant for a worker process."""
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
    """One line: what was raised, and in which line of which file."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({Path(last[0].filename).name}, line {last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {error}{place}"


def _as_trl(function: Callable[..., Any], request: Mapping[str, Any]) -> Any:
    prompt, text = request["prompt"], request["text"]
    chat = not isinstance(prompt, str)
    columns = {
        "answer": request["answer"],
        "ground_truth": request["answer"],
        "data_source": request["source"],
        **request["metadata"],
    }
    columns.pop("prompts", None)
    columns.pop("completions", None)
    scores = function(
        prompts=[prompt],
        completions=[[{"role": "assistant", "content": text}] if chat else text],
        **{name: [value] for name, value in columns.items()},
    )
    if not hasattr(scores, "__len__") or len(scores) != 1:
        raise TypeError(f"it was given one completion and returned {scores!r}, not a list of one number")
    return scores[0]


def _as_verl(function: Callable[..., Any], request: Mapping[str, Any], parameters: Mapping[str, Any]) -> Any:
    values = dict(zip(VERL, (request["source"], request["text"], request["answer"], request["metadata"]), strict=True))
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    found = function(**{name: value for name, value in values.items() if anything or name in parameters})
    return found["score"] if isinstance(found, Mapping) else found


def _grade(score: Any) -> tuple[str, float]:
    try:
        value = float(score)
    except (TypeError, ValueError):
        raise TypeError(f"it returned {score!r}, not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"it returned {value}")
    return ("right" if value >= 1 else "wrong"), value
