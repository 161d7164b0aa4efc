"""The checkpoints of a run directory as files: written under another name first, proven, kept, set aside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srft.data.files import parse_json, read_text, write_json
from srft.errors import SrftError
from srft.policy.adapters import base_in_run
from srft.policy.manifest import damage, sync, write_manifest
from srft.policy.saved import BEST, CHECKPOINTS, best_of, checkpoints_of

TRAINER = "trainer"
UNFINISHED, DOOMED, DAMAGED = ".partial", ".removed", ".damaged"  # ends of names


class CheckpointFiles:
    """checkpoints/step-000060/ holds a model in Hugging Face format, trainer/step-000060/ what a run resumes from
    besides, each with its manifest; best.json says which checkpoint is best. A folder has its name only while it is
    whole and on the disk.

    Args:
        path: the run directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def checkpoints(self) -> list[Path]:
        """The saved checkpoints, oldest first."""
        return checkpoints_of(self.path)

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint; `AutoModelForCausalLM.from_pretrained` loads it.

        Raises:
            SrftError: there is none yet.
        """
        if not self.checkpoints:
            raise SrftError("no checkpoint here", where=str(self.path), fix="Start the run anew in another folder.")
        return self.checkpoints[-1]

    @property
    def best_checkpoint(self) -> Path:
        """The best checkpoint by the recipe's `training.best`.

        Raises:
            SrftError: there is none.
        """
        best = best_of(self.path)
        if best is None:
            fix = "Train with training.best, e.g. training.best.metric=test/avg, or take the newest checkpoint."
            raise SrftError("no best checkpoint was kept, or it is gone", where=str(self.path), fix=fix)
        return best

    def checkpoint_at(self, step: int) -> Path:
        """Where step's checkpoint is, or will be."""
        return self.path / CHECKPOINTS / f"step-{step:06d}"

    def unfinished_checkpoint(self, step: int) -> Path:
        """Where step's checkpoint is written under another name first, so that a crash never leaves half of one."""
        final = self.checkpoint_at(step)
        return final.with_name(final.name + UNFINISHED)

    def begin_checkpoint(self, step: int) -> None:
        """Make that folder, and the one of its trainer's state, without what any earlier one has left."""
        self.remove_unfinished()
        checkpoint = self.unfinished_checkpoint(step)
        for folder in (checkpoint, state_folder(checkpoint)):
            folder.mkdir(parents=True)

    def remove_unfinished(self) -> None:
        """Remove whatever was not written, or not removed, to its end. A checkpoint goes after its trainer's state,
        which may have its name already: a state by itself is one whose checkpoint is gone."""
        for partial in (self.path / CHECKPOINTS).glob(f"step-*{UNFINISHED}"):
            if not (final := partial.with_suffix("")).exists():
                _remove(state_folder(final))
        for parent in (TRAINER, CHECKPOINTS):
            for end in (UNFINISHED, DOOMED):
                for folder in (self.path / parent).glob(f"step-*{end}"):
                    shutil.rmtree(folder)

    def finish_checkpoint(self, step: int, keep: int) -> None:
        """Bring step's checkpoint to the disk and give it its name, after its trainer's state has it: where the
        checkpoint is, all of it is. Of the older ones those stay that `keep_checkpoints` names."""
        partial, final = self.unfinished_checkpoint(step), self.checkpoint_at(step)
        for rows in self.path.glob("*.jsonl"):  # of the steps until here
            sync(rows)
        for folder in (final, state_folder(final)):  # of a checkpoint that a kill left without its name
            _remove(folder)
        for folder, name in ((state_folder(partial), state_folder(final)), (partial, final)):
            write_manifest(folder)
            os.replace(folder, name)
            sync(name.parent)
        sync(self.path)
        self.keep_checkpoints(keep)

    def keep_checkpoints(self, count: int) -> None:
        """Remove all checkpoints but the newest `count`, the best one, and those that the adapters in these stand on;
        the state of the trainer stays beside the newest alone."""
        newest, best = self.checkpoints[-count:], best_of(self.path)
        kept = {*newest, *([best] if best else [])}
        for checkpoint in sorted(kept):
            while (base := base_in_run(checkpoint)) is not None:
                kept.add(checkpoint := base)
        for old in {*self.checkpoints} - kept:
            _remove(old)
        states = {path for path in self.path.glob(f"{TRAINER}/step-*") if not path.suffix}
        for state in states - {state_folder(checkpoint) for checkpoint in newest}:
            _remove(state)

    def replaceable(self, count: int) -> int:
        """Bytes of what is here and makes room for later checkpoints: the newest `count`, and what is unfinished."""
        newest = self.checkpoints[-count:]
        folders = [*newest, *map(state_folder, newest)]
        folders += [path for end in (UNFINISHED, DOOMED) for path in self.path.glob(f"*/step-*{end}")]
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())

    def set_aside_damaged(self, say: Callable[[str], None]) -> None:
        """Make the newest checkpoint that a run can continue from, with all of it as it was written, the newest of the
        run: those after it are renamed to NAME.damaged, which `say` is told.

        Raises:
            SrftError: there is no checkpoint, or none that can be continued from; then nothing is renamed.
        """
        faults: dict[Path, str] = {}
        for checkpoint in reversed([*self.checkpoints] or [self.checkpoint]):
            if not (fault := _damage(checkpoint)):
                break
            faults[checkpoint] = fault
        else:
            listed = "; ".join(f"{checkpoint.name} ({fault})" for checkpoint, fault in faults.items())
            raise SrftError(
                f"no checkpoint can be continued from: {listed}",
                where=str(self.path),
                fix="Start anew in another folder, from the weights of a checkpoint that is whole as a model "
                f"(model.path={self.path}/{CHECKPOINTS}/…) or from the recipe's own.",
            )
        for damaged, fault in faults.items():
            self._set_aside(damaged)
            say(f"{damaged.name} is damaged ({fault}) and set aside: continuing from {checkpoint.name}")

    def _set_aside(self, checkpoint: Path) -> None:
        if self.best.get("checkpoint") == checkpoint.name:
            (self.path / BEST).unlink()
        for folder in (checkpoint, state_folder(checkpoint)):
            aside = folder.with_name(folder.name + DAMAGED)
            while aside.exists():  # of the same step, from the time before
                aside = aside.with_name(aside.name + DAMAGED)
            if folder.exists():
                os.replace(folder, aside)

    @property
    def best(self) -> dict[str, Any]:
        """`checkpoint` (its name), `metric` and `value` of the best checkpoint; empty where there is none yet."""
        file = self.path / BEST
        return dict(parse_json(read_text(file), str(file))) if best_of(self.path) else {}

    def set_best(self, step: int, metric: str, value: float) -> None:
        """Make step's checkpoint the best one so far."""
        write_json(self.path / BEST, {"checkpoint": self.checkpoint_at(step).name, "metric": metric, "value": value})


def state_folder(checkpoint: Path) -> Path:
    """Where the trainer's state of a checkpoint lies: runs/x/trainer/step-000060 of runs/x/checkpoints/step-000060."""
    return checkpoint.parents[1] / TRAINER / checkpoint.name


def _damage(checkpoint: Path) -> str:
    """Why a run cannot continue from a checkpoint, of which file; nothing ("") where it can."""
    state = state_folder(checkpoint)
    if not state.is_dir():
        return "the state of the trainer is missing"
    if fault := damage(state):
        return f"{TRAINER}/{state.name}/{fault}"
    if fault := damage(checkpoint):
        return fault
    try:
        base = base_in_run(checkpoint)
        while base is not None:
            if fault := damage(base):
                return f"its adapters stand on {base.name}, {fault}"
            base = base_in_run(base)
    except SrftError as error:
        return error.what
    return ""


def _remove(folder: Path) -> None:
    """Remove a folder if it is there, under another name first: a kill leaves no half of it under its own."""
    if folder.exists():
        doomed = folder.with_name(folder.name + DOOMED)
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(folder, doomed)
        shutil.rmtree(doomed)
