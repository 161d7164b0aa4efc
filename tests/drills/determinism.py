"""What changes bits of a run, and by how much: determinism.py OUT [CHANGE…]. Prints a row a change: the largest difference of a
weight after 1 and 10 steps from the run without it, and CPU seconds for ten steps, imports among them.

Every run is a process of its own, on the embedded model.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.drills.running import ALONE, TWO
from tests.helpers import ROOT, weights

RECIPE = [
    "srft", "train", "quickstart", "training.device=cpu", "training.prompts_per_step=8", "rollout.n=4",
    "training.tokens_per_micro_batch=2048", "optim.lr=1e-4", "evaluation.sets={}", "logging.samples_every=0",
    "training.checkpoint_every=1", "training.keep_checkpoints=10", "training.steps=10", "verify.workers=1",
]  # fmt: skip
SRFT = "from srft.cli import main; import sys; sys.argv = sys.argv[1:]; main()"
DETERMINISTIC = (sys.executable, "-c", f"import torch; torch.use_deterministic_algorithms(True); {SRFT}")
NOT_PACKED = (sys.executable, "-c", f"from srft.policy import forward; forward.packs = lambda model: False; {SRFT}")
CHANGES: dict[str, tuple[tuple[str, ...], int, list[str]]] = {  # launcher, threads, changes
    "nothing": (ALONE, 1, []),
    "nothing, again": (ALONE, 1, []),
    "two threads": (ALONE, 2, []),
    "two threads, again": (ALONE, 2, []),
    "two processes": (TWO, 1, []),
    "two processes, again": (TWO, 1, []),
    "rollout.max_batch=8": (ALONE, 1, ["rollout.max_batch=8"]),
    "training.tokens_per_micro_batch=1024": (ALONE, 1, ["training.tokens_per_micro_batch=1024"]),
    "padded in place of packed": (NOT_PACKED, 1, []),
    "torch.use_deterministic_algorithms": (DETERMINISTIC, 1, []),
}


def train(out: Path, launcher: tuple[str, ...], threads: int, changes: list[str]) -> float:
    """CPU seconds that it took, of all processes."""
    path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    before = _cpu_seconds()
    subprocess.run(
        [*launcher, *RECIPE, *changes, "--out", str(out)], env=environment, check=True, cwd=ROOT, capture_output=True
    )
    return _cpu_seconds() - before


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def largest_difference(one: Path, other: Path, step: int) -> float:
    """Between weights of the two runs after a step."""
    mine, theirs = (weights(run / f"checkpoints/step-{step:06d}") for run in (one, other))
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def main(folder: Path, names: Sequence[str]) -> None:
    """Train with each of these changes, and compare with the first."""
    whole = folder / "run-0"
    for number, name in enumerate(names):
        out, (launcher, threads, changes) = folder / f"run-{number}", CHANGES[name]
        seconds = train(out, launcher, threads, changes)
        first, tenth = (largest_difference(whole, out, step) for step in (1, 10))
        print(f"| {name} | {first:.1e} | {tenth:.1e} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or [*CHANGES])
