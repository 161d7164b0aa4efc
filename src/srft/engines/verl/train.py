"""Training as a recipe says, on verl: a recipe in, a run directory out."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from rich.console import Console

from srft.data.files import write_text
from srft.data.load import resolve_path
from srft.engines.verl.config import compose_config, settings
from srft.engines.verl.support import check
from srft.errors import SrftError
from srft.policy.load import load_config
from srft.recipe.schema import Recipe
from srft.run.announce import headline, show_end
from srft.run.callbacks import Callback, Callbacks
from srft.run.opening import Opening, chosen_recipe
from srft.run.plan import Plan, make_plan
from srft.run.result import Run
from srft.run.trackers import check_trackers
from srft.training.checkpoint import load_state
from srft.training.display import Display
from srft.training.ending import Listener
from srft.training.loop import StageSpan
from srft.training.run_dir import RunDir
from srft.verify.verifier import Verifier


def train(
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    overrides: Sequence[str] = (),
) -> Run:
    """Train as the recipe says, on verl; called on one machine of Ray's cluster.

    Args:
        recipe, out, resume, allow_changes, console, callbacks: as `srft.train` takes them.
        overrides: `key=value` of verl's own configuration.

    Raises:
        SrftError: before anything starts, for whatever verl cannot do of the recipe; what `srft.train` raises.
    """
    recipe = chosen_recipe(recipe, out, resume)
    check(recipe)
    check_trackers(recipe)
    if importlib.util.find_spec("verl") is None or importlib.util.find_spec("transfer_queue") is None:
        raise SrftError("verl is not installed", where="--engine verl", fix="scripts/setup-verl makes its environment.")
    AcceleratorState._reset_state()
    run_dir = RunDir(out or f"runs/{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    accelerator = Accelerator(cpu=True, log_with=list(recipe.logging.trackers) or None, project_dir=str(run_dir.path))
    with closing(run_dir.lock):
        if resume:
            run_dir.lock.take()
        state = None
        if resume and not run_dir.never_saved:
            run_dir.set_aside_damaged(Display(console, 0).say)
            state = load_state(run_dir.checkpoint)
        set_seed(recipe.training.seed)
        with Verifier.of(recipe.verify) as verifier:
            plans = [make_plan(part, verifier) for part in recipe.parts]
            configs = [stage_config(plan, run_dir.path, stage, overrides) for stage, plan in enumerate(plans, 1)]
            opening = Opening(
                run_dir, recipe, plans, accelerator, resume=resume, state=state, allow_changes=allow_changes
            )
            opening.check()
            display = Display(console, sum(plan.steps for plan in plans))
            with display:
                listener = Callbacks(callbacks, Run(run_dir, finished=False))
                finished = _train_stages(
                    plans, configs, state, accelerator, verifier, run_dir, display, listener, opening
                )
        accelerator.end_training()
        again = f"srft train --engine verl --resume --out {run_dir.path}, with the same verl.key=value"
        show_end(display, run_dir, recipe, finished, again)
    return Run(run_dir, finished)


def stage_config(plan: Plan, folder: Path, stage: int, overrides: Sequence[str]) -> Any:
    """verl's configuration of a stage; the model's config lies in `folder` where the recipe changes it.

    Raises:
        SrftError: verl has no such key.
    """
    changed = folder / f"verl-{stage}" if plan.recipe.model.config else None
    return compose_config(settings(plan.recipe, plan.longest_sequence, changed), overrides)


def _train_stages(
    plans: Sequence[Plan],
    configs: Sequence[Any],
    state: Mapping[str, Any] | None,
    accelerator: Accelerator,
    verifier: Verifier,
    run_dir: RunDir,
    display: Display,
    callbacks: Listener,
    opening: Opening,
) -> bool:
    """Train stage after stage, from `state` on. Returns False when it was interrupted."""
    from omegaconf import OmegaConf

    from srft.engines.verl.cluster import Cluster
    from srft.engines.verl.policy import ShardedPolicy
    from srft.engines.verl.stage import make_stage

    first_step = 0
    if state is None:
        opening.open(display)
    for stage, (plan, config) in enumerate(zip(plans, configs, strict=True), 1):
        here = state if state and stage == state["stage"] else None
        if state and stage < state["stage"]:
            first_step += plan.steps
            continue
        if plan.recipe.model.config:
            load_config(plan.recipe.model).save_pretrained(run_dir.path / f"verl-{stage}")
        write_text(run_dir.path / f"verl-{stage}.yaml", OmegaConf.to_yaml(config))
        where = f"verl on {config.trainer.nnodes} × {config.trainer.n_gpus_per_node} {config.trainer.device}"
        display.say(headline(plan, where, run_dir, f"stage {stage}: " if len(plans) > 1 else ""))
        cluster = Cluster(config)
        with cluster.open():
            policy = ShardedPolicy(cluster, plan.config, resolve_path(plan.recipe.model.path))
            if run_dir.checkpoints:
                policy.load(run_dir.checkpoint, resume=here is not None)
            span = StageSpan(stage, here["first_step"] if here else first_step, plan.steps)
            loop = make_stage(plan, span, policy, accelerator, verifier, run_dir, display, callbacks)
            if here:
                loop.restore(here)
                opening.open(display)
            ending = loop.train(here["step"] if here else 0)
        first_step = span.first_step + plan.steps
        finished = loop.early_end.of_run(ending, last=stage == len(plans))
        if finished is not None:
            return finished
    return True
