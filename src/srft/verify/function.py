"""A user's reward function: `path/to/file.py:name` or a Python callable, with the signature of TRL's reward functions
or of verl's, plain or async."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srft.errors import SrftError
from srft.verify.grade import LARGEST_REWARD, Request

SIGNATURES = (
    "give it TRL's (prompts, completions, **columns) or verl's (data_source, solution_str, ground_truth, extra_info)"
)


@dataclass(frozen=True)
class RewardFunction:
    """A user's function and how it is called.

    Args:
        batched: one call takes any number of responses: TRL's signature, or an async function.
        call: the rewards of responses, None where the function does not apply.
    """

    batched: bool
    call: Callable[[Sequence[Request]], list[float | None]]


def check_function(spec: str) -> None:
    """Return nothing when `path/to/file.py:name` is well-formed and the file exists; it is not run.

    Raises:
        SrftError: it is malformed, or there is no such file.
    """
    path, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier():
        raise SrftError(
            f"'{spec}' names no function",
            where="verify.function, verify.rewards",
            fix="Write path/to/file.py:name; a Python function is given as srft.train(recipe, rewards=[function]).",
        )
    if not Path(path).is_file():
        raise SrftError("no such file", where=f"verify.function, verify.rewards: {path}", fix="Check the path.")


def name_of(function: str | Callable[..., Any]) -> str:
    """What a function is called in metrics: the name in its file, or its own."""
    if isinstance(function, str):
        return function.rpartition(":")[2]
    return getattr(function, "__name__", type(function).__name__)


def load_function(spec: str) -> RewardFunction:
    """The user's function `path/to/file.py:name`. It runs the file: for a worker process alone.

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
    return reward_function(function)


def reward_function(function: Callable[..., Any]) -> RewardFunction:
    """A Python function as it is called, told by its parameters.

    Raises:
        ValueError: its signature is neither TRL's nor verl's.
    """
    parameters = inspect.signature(function).parameters
    if "completions" in parameters:
        return RewardFunction(True, lambda requests: _scores(_as_trl(function, requests), requests))
    if "solution_str" in parameters:
        asynchronous = inspect.iscoroutinefunction(function)
        return RewardFunction(asynchronous, lambda requests: _scores(_as_verl(function, requests), requests))
    raise ValueError(f"'{name_of(function)}' takes ({', '.join(parameters)}): {SIGNATURES}")


def describe(error: BaseException) -> str:
    """One line for the user: what was raised, and in which line of which file."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    own = last and last[0].filename != __file__  # of what it returned, this file complains
    place = f" ({Path(last[0].filename).name}, line {last[0].lineno})" if own else ""
    return f"{type(error).__name__}: {error!s:.2000}{place}"


def _as_trl(function: Callable[..., Any], requests: Sequence[Request]) -> Any:
    """One call with all responses; every column of the data set is a list."""
    rows = [{"answer": r.answer, "ground_truth": r.answer, "data_source": r.source, **r.metadata} for r in requests]
    names = {name for row in rows for name in row}
    columns = {name: [row.get(name) for row in rows] for name in sorted(names)}
    columns["prompts"] = [_prompt(r) for r in requests]
    columns["completions"] = [
        r.response if isinstance(r.prompt, str) else [{"role": "assistant", "content": r.response}] for r in requests
    ]
    return _finished([function(**_accepted(function, columns))])[0]


def _as_verl(function: Callable[..., Any], requests: Sequence[Request]) -> Any:
    """One call for each response."""
    return _finished([function(**_accepted(function, _verl_arguments(r))) for r in requests])


def _verl_arguments(request: Request) -> dict[str, Any]:
    row = request.metadata
    reward_model = row.get("reward_model")
    truth = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    extra = row.get("extra_info")
    return {
        "data_source": request.source,
        "solution_str": request.response,
        "ground_truth": request.answer if truth is None else truth,
        "extra_info": dict(extra if isinstance(extra, Mapping) else row),
    }


def _accepted(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that the function takes."""
    parameters = inspect.signature(function).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: value for name, value in values.items() if anything or name in parameters}


def _finished(results: list[Any]) -> list[Any]:
    """The results, those of async calls awaited together."""

    async def together() -> list[Any]:
        return await asyncio.gather(*results)

    return asyncio.run(together()) if any(map(inspect.isawaitable, results)) else results


def _prompt(request: Request) -> Any:
    return request.prompt if isinstance(request.prompt, str) else [dict(message) for message in request.prompt]


def _scores(results: Any, requests: Sequence[Request]) -> list[float | None]:
    count = len(requests)
    if not hasattr(results, "__len__") or isinstance(results, str | Mapping) or len(results) != count:
        raise TypeError(f"for {count} completions it returned {_head(results)}, not a list of as many numbers")
    return [_score(result, request) for result, request in zip(results, requests, strict=True)]


def _score(result: Any, request: Request) -> float | None:
    if isinstance(result, Mapping):
        result = result["score"]
    if result is None:
        return None
    try:
        reward = math.nan if isinstance(result, str | bytes) else float(result)
    except (TypeError, ValueError, OverflowError):
        reward = math.nan
    if not abs(reward) <= LARGEST_REWARD:  # nor where it is not a number
        what = f"not a finite number of at most {LARGEST_REWARD:,.0f}"
        raise ValueError(f"for the response {_head(request.response)} it returned {_head(result)}, {what}")
    return reward


def _head(value: Any) -> str:
    """The beginning of its representation."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return "an integer of over 300 digits"  # Python refuses to write the longest out
    return f"{value!r:.200}"
