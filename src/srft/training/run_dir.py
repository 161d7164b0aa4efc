"""The run directory: recipe, environment, metrics, rollouts, evaluations, checkpoints; what a resumed run reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from srft.data.files import append_rows, read_whole_rows, write_json, write_rows, write_text
from srft.errors import SrftError
from srft.policy.adapters import base_in_run


class RunDir:
    """Files of one run:

    recipe.yaml, environment.json, data.jsonl (rows that were given in memory), metrics.jsonl (a line a step),
    evaluations.jsonl (a line a benchmark and step), evaluations/step-000060/ (every response of an evaluation),
    rollouts/step-000001.jsonl, selection-2.jsonl (what stage 2 learns from, where it selects its own samples),
    checkpoints/step-000060/ (Hugging Face format, with trainer.pt and trainer/ to resume from).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def create(self, recipe: str, environment: Mapping[str, Any]) -> None:
        """Start a new run here.

        Args:
            recipe: as YAML.
            environment: what it runs on.

        Raises:
            SrftError: it already holds one.
        """
        self.check_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / "recipe.yaml", recipe)
            write_json(self.path / "environment.json", environment)
        except OSError as error:
            raise SrftError(f"cannot write there: {error}", where=str(self.path), fix="Name another --out.") from None

    def check_new(self) -> None:
        """Raises SrftError where it already holds a run."""
        if (self.path / "recipe.yaml").exists():
            raise SrftError(
                "it already holds a run",
                where=str(self.path),
                fix="Continue it with --resume, or name another folder with --out.",
            )

    def keep_data(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows that a new run was given in memory.

        Raises:
            SrftError: it already holds a run.
        """
        self.check_new()
        write_rows(self.data, rows)

    def rewind(self, step: int, stage: int, recipe: str) -> None:
        """Forget what was written after `step` of `stage`, from where a resumed run continues, now as `recipe` says."""
        write_text(self.path / "recipe.yaml", recipe)
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            if (self.path / name).exists():
                write_rows(self.path / name, [row for row in self._read(name) if row["step"] <= step])
        for file in (self.path / "rollouts").glob("step-*.jsonl"):
            if int(file.stem.removeprefix("step-")) > step:
                file.unlink()
        for folder in (self.path / "evaluations").glob("step-*"):
            if int(folder.name.removeprefix("step-")) > step:
                shutil.rmtree(folder)
        for file in self.path.glob("selection-*.jsonl"):
            if int(file.stem.removeprefix("selection-")) > stage:
                file.unlink()

    @property
    def data(self) -> Path:
        """Where rows that were given in memory are kept."""
        return self.path.absolute() / "data.jsonl"

    def selection(self, stage: int) -> Path:
        """Where the policy's own samples that `stage` learns from are kept."""
        return self.path / f"selection-{stage}.jsonl"

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl or evaluations.jsonl."""
        append_rows(self.path / name, [row])

    def save_rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """What a step trained on, with its rewards."""
        write_rows(self.path / "rollouts" / f"step-{step:06d}.jsonl", rows)

    def evaluation(self, step: int) -> Path:
        """Where the responses of the evaluation at `step` are kept."""
        return self.path / "evaluations" / f"step-{step:06d}"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict a step."""
        return self._read("metrics.jsonl")

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """One dict an evaluated benchmark and step."""
        return self._read("evaluations.jsonl")

    @property
    def checkpoints(self) -> list[Path]:
        """The saved checkpoints, oldest first."""
        return sorted(self.path.glob("checkpoints/step-*[0-9]"))

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint; `AutoModelForCausalLM.from_pretrained` loads it.

        Raises:
            SrftError: there is none yet.
        """
        if not self.checkpoints:
            raise SrftError("no checkpoint here", where=str(self.path), fix="Start the run anew in another folder.")
        return self.checkpoints[-1]

    def unfinished_checkpoint(self, step: int) -> Path:
        """Where step's checkpoint is written under another name first, so that a crash never leaves half of one."""
        return self._checkpoint_at(step).with_name(self._checkpoint_at(step).name + ".partial")

    def begin_checkpoint(self, step: int) -> None:
        """Make that folder anew."""
        shutil.rmtree(self.unfinished_checkpoint(step), ignore_errors=True)
        self.unfinished_checkpoint(step).mkdir(parents=True)

    def finish_checkpoint(self, step: int, keep: int) -> None:
        """Give step's checkpoint its name; of the older ones the newest `keep` - 1 stay, and those that the adapters in
        kept ones stand on."""
        shutil.rmtree(self._checkpoint_at(step), ignore_errors=True)
        os.replace(self.unfinished_checkpoint(step), self._checkpoint_at(step))
        kept = {*self.checkpoints[-keep:]}
        for checkpoint in sorted(kept):
            while (base := base_in_run(checkpoint)) is not None:
                kept.add(checkpoint := base)
        for old in {*self.checkpoints} - kept:
            shutil.rmtree(old)

    def _checkpoint_at(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def _read(self, name: str) -> list[dict[str, Any]]:
        return read_whole_rows(self.path / name)
