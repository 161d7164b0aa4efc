"""Problems that reasoning-gym generates."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from typing import Any

from srft.data.problem import Problem
from srft.errors import SrftError, did_you_mean, reason


def generate(path: str, options: Mapping[str, Any]) -> Iterator[Problem]:
    """The problems of `reasoning-gym:TASK`; options: size, seed, the task's own.

    Raises:
        SrftError: the package is missing, or there is no such task or option.
    """
    if importlib.util.find_spec("reasoning_gym") is None:
        raise SrftError("reasoning-gym is not installed", where=path, fix="pip install 'srft[reasoning-gym]'")
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    task = path.partition(":")[2]
    if task not in DATASETS:
        raise SrftError(f"unknown task '{task}'", where=f"data.path: {path}", fix=did_you_mean(task, DATASETS))
    try:
        entries = reasoning_gym.create_dataset(task, **{"size": 500, "seed": 0, **options})
        for i, entry in enumerate(entries):
            yield Problem(
                str(entry["question"]) + "\nGive the final answer in \\boxed{}.",
                str(entry["answer"]),
                source=task,
                grader="reasoning-gym",
                metadata=json.loads(json.dumps(entry, default=str)),
                where=f"{path}, entry {i}",
            )
    except Exception as error:  # of many tasks, by many authors
        raise SrftError(reason(error), where=f"data.options of {path}", fix="See the task's own options.") from None
