"""The run directory: recipe, environment, metrics, rollouts, evaluations, checkpoints; what a resumed run reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from srft.data.files import append_rows, read_whole_rows, write_json, write_rows, write_text
from srft.errors import SrftError
from srft.training.checkpoint_files import CheckpointFiles


class RunDir(CheckpointFiles):
    """Files of one run:

    recipe.yaml, recipe-000040.yaml (what the run followed up to step 40, where it was resumed with another recipe),
    environment.json, data.jsonl (rows that were given in memory), metrics.jsonl (a line a step), evaluations.jsonl (a
    line a benchmark and step), evaluations/step-000060/ (every response of an evaluation),
    rollouts/step-000001.jsonl, selection-2.jsonl (what stage 2 learns from, where it selects its own samples), and its
    checkpoints: see `CheckpointFiles`.
    """

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
        self._change_recipe(step, recipe)
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            if (self.path / name).exists():
                write_rows(self.path / name, [row for row in self._read(name) if row["step"] <= step])
        for file in (self.path / "rollouts").glob("step-*.jsonl"):
            if _number(file) > step:
                file.unlink()
        for folder in (self.path / "evaluations").glob("step-*"):
            if _number(folder) > step:
                shutil.rmtree(folder)
        for file in self.path.glob("selection-*.jsonl"):
            if _number(file) > stage:
                file.unlink()

    @property
    def data(self) -> Path:
        """Where rows that were given in memory are kept."""
        return self.path.absolute() / "data.jsonl"

    def _change_recipe(self, step: int, recipe: str) -> None:
        """Make `recipe` the run's, and keep the one that it followed up to `step` where that is another."""
        files = {_number(file): file for file in self.path.glob("recipe-*.yaml")}
        later = sorted(number for number in files if number >= step)
        followed = (files[later[0]] if later else self.path / "recipe.yaml").read_text(encoding="utf-8")
        if followed != recipe:
            write_text(self.path / f"recipe-{step:06d}.yaml", followed)
        write_text(self.path / "recipe.yaml", recipe)
        for number in later:
            if number > step or followed == recipe:
                files[number].unlink()

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

    def value_at(self, step: int, metric: str) -> float | None:
        """A metric's value at a step, `SET/name` of an evaluation or one of the step itself; None where it has none."""
        name, _, key = metric.partition("/")
        evaluated = [row.get(key) for row in self.evaluations if row["step"] == step and row["benchmark"] == name]
        return next(iter([*evaluated, *(row.get(metric) for row in self.metrics if row["step"] == step)]), None)

    def _read(self, name: str) -> list[dict[str, Any]]:
        return read_whole_rows(self.path / name)


def _number(path: Path) -> int:
    """60 of step-000060.jsonl."""
    return int(path.stem.rpartition("-")[2])
