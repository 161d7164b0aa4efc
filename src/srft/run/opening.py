"""How a run begins, and how it goes on: the recipe to follow, what may have changed, its directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from srft.errors import SrftError
from srft.processes import first
from srft.recipe.load import load_recipe
from srft.recipe.schema import Recipe
from srft.run.announce import report_overlap
from srft.run.changes import check_changes
from srft.run.environment import environment
from srft.run.inputs import read_inputs
from srft.run.plan import Plan
from srft.run.trackers import start_trackers
from srft.training.display import Display
from srft.training.run_dir import RunDir


def chosen_recipe(recipe: Recipe | None, out: str | Path | None, resume: bool) -> Recipe:
    """The recipe given, or when resuming that of the run in `out`.

    Raises:
        SrftError: there is none, or no run to continue.
    """
    if resume:
        file = check_resumable(out)
        recipe = recipe or load_recipe(file)
    if recipe is None:
        raise SrftError("no recipe given", fix="Name one: see `srft recipes`.")
    return recipe


def check_resumable(out: str | Path | None) -> Path:
    """The recipe of the run in `out`.

    Raises:
        SrftError: there is none.
    """
    if out is None or not (Path(out) / "recipe.yaml").is_file():
        fix = "Name its folder with --out; to begin a run there leave --resume out: srft train RECIPE --out DIR."
        raise SrftError("there is no run to continue", where=f"--out {out}", fix=fix)
    return Path(out) / "recipe.yaml"


class Opening:
    """Of a run directory, when all plans are made and before anything is written.

    Args:
        resume: the run is there already.
        state: of the checkpoint that it continues from; None from its beginning.
        allow_changes: of a resumed run's recipe, data and model.
    """

    def __init__(
        self,
        run_dir: RunDir,
        recipe: Recipe,
        plans: Sequence[Plan],
        accelerator: Accelerator,
        *,
        resume: bool,
        state: Mapping[str, Any] | None,
        allow_changes: bool,
    ) -> None:
        self.run_dir, self.recipe, self.plans, self.accelerator = run_dir, recipe, plans, accelerator
        self.resume, self.state, self.allow_changes = resume, state, allow_changes
        self._inputs: dict[str, str] = {}
        self._notes: list[str] = list(recipe.notes)

    def check(self) -> None:
        """Read what the run is made of, and compare it with what a resumed run followed.

        Raises:
            SrftError: something has changed that may not, or not without a word.
        """
        first(self.accelerator, self._check)

    def _check(self) -> None:
        self._inputs = read_inputs(self.recipe, self.plans)
        if self.resume:
            self._notes += check_changes(
                self.run_dir, self.recipe, self._inputs, self.plans, self.state, self.allow_changes
            )

    def open(self, display: Display) -> None:
        """Start the run directory, or take it back to the state that the run continues from; of a resumed run when
        nothing else can fail before its first step."""
        if not self.resume:
            first(self.accelerator, self._create)
        start_trackers(self.recipe, self.accelerator, self.run_dir)
        if self.resume:
            first(self.accelerator, self._rewind)
        for note in self._notes:
            display.say(note)
        if self.accelerator.is_main_process:
            if not self.run_dir.lock.is_held:
                display.say("this file system has no locks: see that no other run writes to the same folder")
            report_overlap(self.plans, self.run_dir, display)

    def _create(self) -> None:
        self.run_dir.create(self.recipe.to_yaml(), environment(self.recipe.training.seed), self._inputs)

    def _rewind(self) -> None:
        state = self.state
        if state is None:
            self._notes.append("no checkpoint was saved yet: the run begins anew")
        step, stage = (state["first_step"] + state["step"], state["stage"]) if state else (-1, 0)
        self._notes += self.run_dir.rewind(step, stage, self.recipe.to_yaml(), self._inputs)
