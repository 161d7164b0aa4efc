"""Training as a recipe says: a recipe in, a run directory out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, set_seed
from rich.console import Console
from torch import distributed

from srft.errors import SrftError
from srft.policy.placement import pick_device, pick_precision
from srft.processes import TIMEOUT, ending_together, first
from srft.recipe.schema import Recipe
from srft.run.announce import headline, show_end
from srft.run.callbacks import Callback, Callbacks
from srft.run.estimate import check_size, estimate
from srft.run.given import Reward, with_model, with_rewards, with_rows
from srft.run.opening import Opening, chosen_recipe
from srft.run.plan import Plan, make_plan
from srft.run.preference import train_preferences
from srft.run.quiet import default_console, quiet_libraries
from srft.run.result import Run
from srft.run.select import with_selection
from srft.run.sharding import with_sharding
from srft.run.stage import make_collector, make_inference, make_loop, make_policy
from srft.run.trackers import check_trackers
from srft.training.checkpoint import VERL, load_state
from srft.training.checkpoint_files import state_folder
from srft.training.display import Display
from srft.training.ending import Listener
from srft.training.loop import StageSpan
from srft.training.run_dir import RunDir
from srft.verify.verifier import Verifier


@ending_together()
def train(
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    console: Console | None = None,
    data: Iterable[Mapping[str, Any]] | None = None,
    rewards: Sequence[Reward] = (),
    model: Any = None,
    tokenizer: Any = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train as the recipe says; the same call on every process of a launch.

    Args:
        recipe: from `load_recipe`; when resuming, the run's own if left out.
        out: the run directory, `runs/<recipe>-<time>` if left out.
        resume: continue the run in `out` from its newest checkpoint; from its beginning where it has none yet.
        allow_changes: continue it though recipe, data or code are not what they were, which is refused otherwise.
        console: where to show progress, e.g. rich's `Console()`, or `Console(quiet=True)` for silence. If left out, a
            notebook and Python's prompt show it and a script is silent.
        data: rows in place of the recipe's `data.path`: a list of dicts or a `datasets.Dataset`, in the columns that a
            file would have. The run directory keeps them as data.jsonl, which the run's own recipe names.
        rewards: Python functions, each alone or with its weight, `"grader"` among them for the grader; in place of the
            recipe's `verify.rewards`. docs/rewards.md says what they are called with.
        model, tokenizer: a transformers causal LM and its tokenizer, in place of the recipe's `model.path`. They are
            written to the run directory; the model given is not trained itself.
        callbacks: of your own; see `Callback`.

    Raises:
        SrftError: before training starts, for whatever is wrong with recipe, data, model or machine.
        Exception: what a callback raised, once a checkpoint is saved.
    """
    console = console or default_console()
    recipe, functions = with_rewards(chosen_recipe(recipe, out, resume), rewards)
    check_trackers(recipe)
    with quiet_libraries() if console else nullcontext():
        accelerator = _accelerator(recipe, out)
        run_dir = RunDir(_agree(str(out or f"runs/{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}")))
        with closing(run_dir.lock):
            if resume:
                first(accelerator, run_dir.lock.take)
            if data is not None:
                recipe = with_rows(recipe, data, run_dir, accelerator, resume)
            if model is not None:
                recipe = with_model(recipe, model, tokenizer, run_dir, accelerator, resume)
            state = None
            if resume and not run_dir.never_saved:
                say = Display(console if accelerator.is_main_process else None, 0).say
                first(accelerator, lambda: run_dir.set_aside_damaged(say))
                state = load_state(_own(run_dir.checkpoint))
            set_seed(recipe.training.seed)
            with Verifier.of(recipe.verify, functions) as verifier:
                plans = _preflight(recipe, run_dir, accelerator, verifier)
                opening = Opening(
                    run_dir, recipe, plans, accelerator, resume=resume, state=state, allow_changes=allow_changes
                )
                opening.check()
                display = Display(console if accelerator.is_main_process else None, sum(plan.steps for plan in plans))
                with display:
                    listener = Callbacks(callbacks, Run(run_dir, finished=False))
                    finished = _train_stages(plans, state, accelerator, verifier, run_dir, display, listener, opening)
            accelerator.end_training()
            show_end(display, run_dir, recipe, finished, f"srft train --resume --out {run_dir.path}")
    return Run(run_dir, finished)


def _own(checkpoint: Path) -> Path:
    """The checkpoint, where this engine wrote it."""
    if (state_folder(checkpoint) / VERL).is_dir():
        fix = "Continue it with --engine verl, or start a new run with model.path at that checkpoint."
        raise SrftError("verl saved it, and its optimizer with it", where=str(checkpoint), fix=fix)
    return checkpoint


def _preflight(recipe: Recipe, run_dir: RunDir, accelerator: Accelerator, verifier: Verifier) -> list[Plan]:
    """A plan for each stage, each checked against data, model and machine."""
    plans = [with_sharding(make_plan(part, verifier, accelerator.num_processes), accelerator) for part in recipe.parts]
    _check_adapters(plans)
    for plan in plans:
        check_size(estimate(plan, accelerator.num_processes), run_dir.path)
    return plans


def _check_adapters(plans: Sequence[Plan]) -> None:
    """Raises SrftError where a stage's adapters could not go on from those of the one before."""
    shapes = [plan.recipe.model.lora for plan in plans]
    for stage, (before, here) in enumerate(pairwise(shapes), 2):
        if before and here and before != here:
            raise SrftError(
                "it has other LoRA adapters than the stage before",
                where=f"stage {stage}: model.lora",
                fix="Keep model.lora as it is, or set it to null in one of the two.",
            )


def _train_stages(
    plans: Sequence[Plan],
    state: Mapping[str, Any] | None,
    accelerator: Accelerator,
    verifier: Verifier,
    run_dir: RunDir,
    display: Display,
    callbacks: Listener,
    opening: Opening,
) -> bool:
    """Train stage after stage, from `state` on. Returns False when it was interrupted."""
    first_step = 0
    if state is None:
        opening.open(display)
    for stage, plan in enumerate(plans, 1):
        if state and stage < state["stage"]:
            continue
        here = state if state and stage == state["stage"] else None
        first_step = here["first_step"] if here else first_step
        checkpoint = run_dir.checkpoint if run_dir.checkpoints else None
        policy = make_policy(plan, accelerator, checkpoint)
        inference = make_inference(plan, policy, accelerator)
        collector = make_collector(plan, inference, verifier)
        collector.sampler.progress = display.advance
        try:
            if selection := plan.recipe.data.selection:
                candidates = len(plan.prompts) * selection.n // accelerator.num_processes
                display.begin("sampling its data", first_step, candidates)
            plan = with_selection(plan, inference, collector, accelerator, run_dir.selection(stage), stage)
            where = f"{accelerator.num_processes} × {accelerator.device.type}"
            where += ", sharded" * bool(plan.recipe.training.shard)
            display.say(headline(plan, where, run_dir, f"stage {stage}: " if len(plans) > 1 else ""))
            span = StageSpan(stage, first_step, plan.steps)
            loop = make_loop(plan, span, policy, inference, collector, accelerator, run_dir, display, callbacks)
            if here:
                loop.restore(here)
                opening.open(display)
            start = here["step"] if here else 0
            ending = train_preferences(plan, loop, start) if "preferences" in loop.needs else loop.train(start)
        finally:
            collector.sampler.close()
        first_step += plan.steps
        accelerator.free_memory()
        finished = loop.early_end.of_run(ending, last=stage == len(plans))
        if finished is not None:
            return finished
    return True


def _accelerator(recipe: Recipe, out: str | Path | None) -> Accelerator:
    device = pick_device(recipe.training.device)
    precision = pick_precision(recipe.training.precision, device)
    AcceleratorState._reset_state()  # another run of this process may have had another precision
    launched = distributed.is_torchelastic_launched() and not distributed.is_initialized()
    if launched and device.type == "cuda" and any(part.training.offload for part in recipe.parts):
        distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT)  # what is offloaded is summed on the CPU
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=list(recipe.logging.trackers) or None,
        project_dir=str(out or "runs"),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )


def _agree(path: str) -> str:
    """The first process's path, for all: the default has the time in it."""
    return str(broadcast_object_list([path])[0])
