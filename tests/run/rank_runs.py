"""What test_ranks.py has several processes do, in one launch: rank_runs.py FOLDER CHANGES…"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from accelerate import Accelerator, PartialState

from srft import SrftError, load_recipe, train
from srft.processes import first
from srft.recipe.schema import Recipe
from tests.helpers import SMALL

STAGES = {
    "extends": "quickstart",
    "name": "pairs",
    "stages": [{"method": {"name": "sft"}}, {"method": {"name": "dpo"}}],
}


class Unpicklable(Exception):
    """One that is not made by its message alone, and holds what no other process can be sent."""

    def __init__(self, name: str, code: int) -> None:
        self.held = lambda: code
        super().__init__(name)


ERRORS = [
    OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(3), Unpicklable("odd", 1),
    SrftError("no", where="there", fix="Do."),
]  # fmt: skip


def raised_by_first() -> list[str]:
    """What each error of the first process is on this one."""
    seen = []
    for error in ERRORS:

        def act(error: BaseException = error) -> None:
            raise error

        try:
            first(PartialState(), act)
        except BaseException as raised:
            seen.append(f"{type(raised).__name__}: {raised}")
    return seen


def pairs(folder: Path, *changes: str) -> Recipe:
    """Two stages, the second on preference pairs; `training.device` is as where no one named it."""
    file = folder / "pairs.jsonl"
    rows = [
        {"prompt": f"{i} + 1", "answer": f"{i + 1}", "chosen": f"It is {i + 1}.", "rejected": "No" + " so" * (i % 5)}
        for i in range(12)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = [*SMALL, "training.device=auto", f"data.path={file}", "data.selection=null", "verify.check_answers=0"]
    small += ["rollout.max_response_length=48", "optim.lr=1e-3", "stages.0.training.steps=1"]
    small += ["training.keep_checkpoints=9"]
    return load_recipe(STAGES, [*small, *changes])


def srft(*changes: str) -> Recipe:
    """Rollouts and demonstrations, at a learning rate that a step is seen by."""
    small = ["evaluation.sets={}", "rollout.max_response_length=64", "optim.lr=1e-3", "optim.schedule=constant"]
    small += ["optim.warmup=0", "training.steps=3", "training.checkpoint_every=1", "training.keep_checkpoints=9"]
    return load_recipe("quickstart", [*SMALL, *small, *changes])


CASES = {  # what else a checkpoint holds
    "grpo": [],
    "ppo": ["optim.auxiliary_lr=1e-3"],
    "prime": ["optim.auxiliary_lr=1e-3"],
    "relift": ["hooks.buffer.size=2"],
    "dapo": ["hooks.refill.rounds=2"],
    "lora": ["method.name=grpo", "method.kl_weight=0.1", "model.lora.rank=2"],
}


def drilled(folder: Path) -> dict[str, Recipe]:
    """Runs of four steps whose prompts one, two and three processes can share, by name."""
    few = ["training.prompts_per_step=6", "training.steps=4", "rollout.n=2"]
    runs = {case: srft(*few, f"method.name={case if case != 'lora' else 'grpo'}", *CASES[case]) for case in CASES}
    methods = [
        {"method": {"name": name}, "training": {"steps": n}} for name, n in {"sft": 1, "ppo": 2, "rft": 1}.items()
    ]
    stages = {"extends": "quickstart", "name": "stages", "stages": methods}
    short = [change for change in SMALL if not change.startswith("training.steps")]
    short += ["data.limit=12", "rollout.max_response_length=64", "training.keep_checkpoints=9", "rollout.n=2"]
    runs["stages"] = load_recipe(stages, [*short, "training.prompts_per_step=6", "training.checkpoint_every=1"])
    return runs | {"srft": srft(*few), "pairs": pairs(folder, "training.prompts_per_step=6")}


def go_on(folder: Path, changes: list[str]) -> None:
    """Resume every run in the folder, each with its own recipe."""
    for file in sorted(folder.glob("*/recipe.yaml")):
        train(load_recipe(file, changes), file.parent, resume=True)


def main(folder: Path, changes: list[str]) -> None:
    """Go on with runs that other processes began; then fail."""
    Accelerator.end_training = lambda self: None  # a run leaves the process group to the next
    go_on(folder, changes)
    (folder / f"first-{PartialState().process_index}.json").write_text(json.dumps(raised_by_first()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
