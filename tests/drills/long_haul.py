"""A long run and what it holds on to: long_haul.py OUT [STEPS]. Prints one JSON object.

Every 20 steps memory, files, threads and processes are counted from within the run; slopes leave the first quarter out,
in which libraries fill their caches.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import linear_regression
from typing import Any

import psutil

from srft import Callback, Run, load_recipe, train

EVERY = 20
RECIPE = [
    "training.device=cpu", "training.prompts_per_step=2", "training.tokens_per_micro_batch=1500", "rollout.n=2",
    "rollout.max_response_length=160", "optim.lr=1e-5", "training.checkpoint_every=100", "logging.samples_every=0",
    "evaluation.every=200", "evaluation.sets.test.limit=4", "evaluation.sets.ood.limit=4", "evaluation.sampling.n=2",
    "verify.workers=1",
]  # fmt: skip


class Counter(Callback):
    """What the process holds, every `EVERY` steps."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_step(self, step: int, metrics: Mapping[str, Any], run: Run) -> None:
        """Count."""
        if step % EVERY:
            return
        process = psutil.Process()
        children = process.children(recursive=True)
        self.rows.append(
            {
                "step": step,
                "rss": process.memory_info().rss / 1024,  # KiB
                "children_rss": sum(child.memory_info().rss for child in children) / 1024,
                "files": process.num_fds(),
                "threads": process.num_threads(),
                "processes": len(children),
                "step_time": metrics["step_time"],
            }
        )


def per_hundred_steps(rows: Sequence[Mapping[str, float]], key: str) -> float:
    """The slope of a count, by least squares."""
    return 100 * linear_regression([row["step"] for row in rows], [row[key] for row in rows]).slope


def main(out: Path, steps: int) -> None:
    """Train, and print what was counted."""
    counter, began = Counter(), time.perf_counter()
    run = train(load_recipe("quickstart", [*RECIPE, f"training.steps={steps}"]), out, callbacks=[counter])
    seconds, began = time.perf_counter() - began, time.perf_counter()
    metrics = run.metrics
    read = time.perf_counter() - began
    settled = counter.rows[len(counter.rows) // 4 :]
    result: dict[str, Any] = {"steps": len(metrics), "seconds": seconds, "seconds_to_read_metrics": read}
    result["kib_per_100_steps"] = {key: per_hundred_steps(settled, key) for key in ("rss", "children_rss")}
    result["milliseconds_per_100_steps"] = 1000 * per_hundred_steps(settled, "step_time")
    for key in ("rss", "files", "threads", "processes"):
        values = [row[key] for row in settled]
        result[key] = {"first": values[0], "last": values[-1], "least": min(values), "most": max(values)}
    result["checkpoints"] = len(run.directory.checkpoints)
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 2000)
