"""The run directory: recipe, environment, metrics, rollouts, evaluations, checkpoints; what a resumed run reads."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from srft.data.files import append_rows, json_text, read_text, write_json, write_rows, write_text
from srft.data.lock import Lock
from srft.errors import SrftError
from srft.policy.saved import CHECKPOINTS
from srft.training.checkpoint_files import DOOMED, TRAINER, UNFINISHED, CheckpointFiles
from srft.training.rows import Rows, ranges, read_rows

WARNINGS = "warnings.jsonl"
KEYS = {  # what names a row
    "metrics.jsonl": ("step",),
    "evaluations.jsonl": ("step", "benchmark"),
    WARNINGS: ("step", "name"),
}


class RunDir(CheckpointFiles):
    """Files of one run:

    recipe.yaml and inputs.json (what it reads: data, model, code), recipe-000040.yaml and inputs-000040.json (the
    same up to step 40, where it was resumed with others), environment.json, run.lock (held by the process that
    writes here), data.jsonl (rows that were given in memory), metrics.jsonl (a line a step), evaluations.jsonl (a
    line a benchmark and step), warnings.jsonl (a line a warning: step, name, text, advice),
    evaluations/step-000060/ (every response of an evaluation), rollouts/step-000001.jsonl, selection-2.jsonl (what
    stage 2 learns from, where it selects its own samples), and its checkpoints: see `CheckpointFiles`.

    Attributes:
        lock: one process at a time writes here; `create`, `keep_data` and `check_new` take it.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.lock = Lock(self.path / "run.lock")

    def create(self, recipe: str, environment: Mapping[str, Any], inputs: Mapping[str, str] = {}) -> None:
        """Start a new run here.

        Args:
            recipe: as YAML.
            environment: what it runs on.
            inputs: what it reads.

        Raises:
            SrftError: it already holds one, or another process writes here.
        """
        self.check_new()
        try:
            write_json(self.path / "inputs.json", inputs)
            write_json(self.path / "environment.json", environment)
            write_text(self.path / "recipe.yaml", recipe)
        except OSError as error:
            raise SrftError(f"cannot write there: {error}", where=str(self.path), fix="Name another --out.") from None

    def check_new(self) -> None:
        """Take the lock of a new run's folder.

        Raises:
            SrftError: it already holds a run, or another process writes here.
        """
        if (self.path / "recipe.yaml").exists():
            raise SrftError(
                "it already holds a run",
                where=str(self.path),
                fix="Continue it with --resume, or name another folder with --out.",
            )
        self.lock.take()

    def keep_data(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows that a new run was given in memory.

        Raises:
            SrftError: it already holds a run.
        """
        self.check_new()
        write_rows(self.data, rows)

    @property
    def never_saved(self) -> bool:
        """The run has not finished a checkpoint yet: there is none, and nothing is left of one that is gone."""
        begun, states = (
            {file.name for file in self.path.glob(f"{parent}/*") if file.suffix != DOOMED}
            for parent in (CHECKPOINTS, TRAINER)
        )
        unfinished = {f"{name.removesuffix(UNFINISHED)}{UNFINISHED}" for name in states}
        return unfinished <= begun and all(name.endswith(UNFINISHED) for name in begun)

    def rewind(self, step: int, stage: int, recipe: str, inputs: Mapping[str, str] = {}) -> list[str]:
        """Forget what was written after `step` of `stage`, from where a resumed run continues, now by `recipe` and on
        `inputs`, and what was not written to its end; all of it where `step` is -1.

        Returns:
            what is wrong with the rows written until then, a line each.
        """
        self.remove_unfinished()
        self._replace("recipe.yaml", recipe, step)
        self._replace("inputs.json", json_text(inputs), step)
        faults = []
        for name in KEYS:
            read = self._read(name)
            if read.faults:
                aside = f"{name}.damaged"
                shutil.copyfile(self.path / name, self.path / aside)
                faults += [*read.faults, f"{name} as it was is kept as {aside}"]
            if (self.path / name).exists():
                write_rows(self.path / name, [row for row in read.rows if row["step"] <= step])
        made = {row["step"] for row in self.metrics}
        if missing := [number for number in range(1, step + 1) if number not in made]:
            faults.append(f"metrics.jsonl has no row of step {ranges(missing)}")
        for pattern in ("rollouts/step-*.jsonl", "evaluations/step-*"):
            for number, path in self._numbered(pattern):
                if number > step:
                    _remove(path)
        for number, path in self._numbered("selection-*.jsonl"):
            if number > stage:
                _remove(path)
        return faults

    @property
    def data(self) -> Path:
        """Where rows that were given in memory are kept."""
        return self.path.absolute() / "data.jsonl"

    def _replace(self, name: str, text: str, step: int) -> None:
        """Make `text` that file of the run, and keep the one in force up to `step` where that is another."""
        file = self.path / name
        kept = self._numbered(f"{file.stem}-*{file.suffix}")
        old = [(number, path) for number, path in kept if number >= step and path.is_file()]
        followed = next((path for _, path in old), file)
        before = read_text(followed) if followed.is_file() else text
        if before != text and step >= 0:
            write_text(self.path / f"{file.stem}-{step:06d}{file.suffix}", before)
        write_text(file, text)
        for number, path in old:
            if number > step or before == text:
                _remove(path)

    def _numbered(self, pattern: str) -> list[tuple[int, Path]]:
        """What the run wrote by the number in its name, in that order; 60 of step-000060.jsonl."""
        names = re.compile(pattern.rpartition("/")[2].replace(".", r"\.").replace("*", r"(\d+)"))
        paths = ((names.fullmatch(path.name), path) for path in self.path.glob(pattern))
        return sorted((int(name[1]), path) for name, path in paths if name)

    def selection(self, stage: int) -> Path:
        """Where the policy's own samples that `stage` learns from are kept."""
        return self.path / f"selection-{stage}.jsonl"

    def append(self, name: str, *rows: Mapping[str, Any]) -> None:
        """Add lines to metrics.jsonl, evaluations.jsonl or warnings.jsonl, all or none."""
        append_rows(self.path / name, rows)

    def save_rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """What a step trained on, with its rewards."""
        write_rows(self.path / "rollouts" / f"step-{step:06d}.jsonl", rows)

    def evaluation(self, step: int) -> Path:
        """Where the responses of the evaluation at `step` are kept."""
        return self.path / "evaluations" / f"step-{step:06d}"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict a step."""
        return self._read("metrics.jsonl").rows

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """One dict an evaluated benchmark and step."""
        return self._read("evaluations.jsonl").rows

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """One dict a warning that was given."""
        return self._read(WARNINGS).rows

    def value_at(self, step: int, metric: str) -> float | None:
        """A metric's value at a step, `SET/name` of an evaluation or one of the step itself; None where it has none."""
        name, _, key = metric.partition("/")
        evaluated = [row.get(key) for row in self.evaluations if row["step"] == step and row["benchmark"] == name]
        return next(iter([*evaluated, *(row.get(metric) for row in self.metrics if row["step"] == step)]), None)

    def _read(self, name: str) -> Rows:
        return read_rows(self.path / name, KEYS[name])


def _remove(path: Path) -> None:
    """A file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
