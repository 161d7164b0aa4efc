"""A run: a recipe in, a run directory out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, set_seed
from rich.console import Console
from transformers import AutoModelForCausalLM

from srft.data import TEMPLATES
from srft.errors import SrftError
from srft.evaluation.contamination import overlap, warning
from srft.policy import Pair
from srft.processes import first, gather
from srft.recipe import Recipe, load_recipe
from srft.training.assemble import Actor, assemble
from srft.training.display import Display
from srft.training.loop import Loop
from srft.training.plan import Plan, check_size, estimate, make_plan, with_problems
from srft.training.preference import train_on_pairs
from srft.training.responses import Sampling
from srft.training.run_dir import RunDir
from srft.training.selection import Candidate, needs_scores, read, score, select, write
from srft.training.state import load_state, restore
from srft.verify import Verifier


@dataclass(frozen=True)
class Run:
    """A finished or interrupted run: `directory` reads its files."""

    directory: RunDir
    finished: bool

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return self.directory.metrics

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        return self.directory.evaluations

    def load(self) -> Any:
        """The trained model, by transformers."""
        return AutoModelForCausalLM.from_pretrained(self.directory.checkpoint)


def train(
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> Run:
    """Train as the recipe says; the same call on every process of `accelerate launch`.

    Args:
        recipe: from `load_recipe`; when resuming, the run's own if left out.
        out: the run directory, `runs/<recipe>-<time>` if left out.
        resume: continue the run in `out` from its newest checkpoint.
        console: where to show progress; silent if left out.

    Raises:
        SrftError: before training starts, for whatever is wrong with recipe, data, model or machine.
    """
    if resume:
        if out is None or not (Path(out) / "recipe.yaml").is_file():
            raise SrftError("there is no run to continue", where=f"--out {out}", fix="Name its folder with --out.")
        recipe = recipe or load_recipe(Path(out) / "recipe.yaml")
    if recipe is None:
        raise SrftError("no recipe given", fix="Name one: see `srft recipes`.")
    accelerator = _accelerator(recipe, out)
    main = accelerator.is_main_process
    directory = RunDir(_agree(str(out or f"runs/{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}")))
    checkpoint = directory.checkpoint if resume else None
    state = load_state(checkpoint) if checkpoint else None
    set_seed(recipe.training.seed)
    verify = recipe.verify
    with Verifier(verify.workers, verify.timeout, function=verify.function) as verifier:
        plans = [make_plan(part, verifier, accelerator.num_processes) for part in recipe.parts]
        for plan in plans:
            check_size(estimate(plan), directory.path, accelerator.num_processes)
        if state is None:
            first(accelerator, lambda: directory.create(recipe.to_yaml(), recipe.training.seed))
        else:
            first(
                accelerator, lambda: directory.rewind(state["done"] + state["step"], state["stage"], recipe.to_yaml())
            )
        display = Display(console if main else None, sum(plan.steps for plan in plans))
        if main:
            _look_for_overlap(plans, directory, display)
        if recipe.logging.trackers:
            accelerator.init_trackers(recipe.logging.project, config=_flat(recipe.model_dump(mode="json")))
        finished, done = True, 0
        for stage, plan in enumerate(plans, 1):
            if state and stage < state["stage"]:
                continue
            here = state if state and stage == state["stage"] else None
            done = here["done"] if here else done
            actor = Actor(plan, accelerator, verifier, directory.checkpoint if directory.checkpoints else None)
            plan = _selected(plan, actor, accelerator, directory, stage)
            display.say(_headline(plan, accelerator, directory, f"stage {stage}: " if recipe.stages else ""))
            loop = assemble(plan, actor, accelerator, directory, display, stage, done)
            if here:
                restore(loop, here)
            learn = partial(_prefer, plan) if "preferences" in plan.recipe.needs else Loop.train
            finished = learn(loop, here["step"] if here else 0)
            done += plan.steps
            actor.collector.sampler.close()
            accelerator.free_memory()
            finished = finished and not (loop.interrupted and stage < len(plans))
            if not finished:
                break
    accelerator.end_training()
    if finished:
        model = f" (model: {directory.checkpoint})" if directory.checkpoints else ""
        display.say(f"Done: {directory.path}{model}")
    else:
        display.say(f"Saved. To continue: srft train --resume --out {directory.path}")
    return Run(directory, finished)


def _accelerator(recipe: Recipe, out: str | Path | None) -> Accelerator:
    training = recipe.training
    cpu = training.device == "cpu" or not torch.cuda.is_available()
    precision = ("no" if cpu else "bf16") if training.precision == "auto" else training.precision
    AcceleratorState._reset_state()  # another run of this process may have had another precision
    return Accelerator(
        cpu=cpu,
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=list(recipe.logging.trackers) or None,
        project_dir=str(out or "runs"),
    )


def _look_for_overlap(plans: Sequence[Plan], directory: RunDir, display: Display) -> None:
    """contamination.json: which problems of the evaluation sets stand in the training prompts; a warning if any do."""
    prompts = [p.problem for plan in plans for p in plan.prompts]
    sets = {name: [p.problem for p in tests] for plan in plans for name, tests in plan.evaluations.items()}
    found = overlap(prompts, sets)
    report = {name: o.to_json() for name, o in found.items()}
    (directory.path / "contamination.json").write_text(json.dumps(report, indent=2) + "\n")
    if line := warning(found):
        display.say(line)


def _agree(path: str) -> str:
    """The first process's path, for all: the default has the time in it."""
    return str(broadcast_object_list([path])[0])


def _selected(plan: Plan, actor: Actor, accelerator: Accelerator, directory: RunDir, stage: int) -> Plan:
    """The plan on the policy's own selected samples, where its recipe asks for them; kept in the run directory."""
    recipe, how = plan.recipe, plan.recipe.data.selection
    if how is None:
        return plan
    file = directory.selection(stage)
    if not file.exists():
        rank, ranks, rollout = accelerator.process_index, accelerator.num_processes, recipe.rollout
        mine = list(enumerate(plan.prompts))[rank::ranks]
        sampling = Sampling(how.n, rollout.temperature, rollout.top_p, rollout.max_response_length)
        with accelerator.autocast():
            found = actor.collector.rollouts(mine, sampling, f"selection {stage}")
            scores = [(0.0, 0.0)] * len(found)
            if needs_scores(how):
                pairs = [Pair(r.prompt.ids, r.token_ids, i) for i, r in enumerate(found)]
                scores = score(actor.policy, pairs, recipe.training.tokens_per_micro_batch, plan.pad_token_id)
        rows = [(r.slot, r.text, r.grade.reward >= 1, *s) for r, s in zip(found, scores, strict=True)]
        candidates = [Candidate(plan.prompts[slot].problem, *rest) for slot, *rest in sorted(gather(accelerator, rows))]
        chosen = select(candidates, how, recipe.training.seed)
        first(accelerator, lambda: write(file, chosen))
    return with_problems(plan, read(file))


def _prefer(plan: Plan, loop: Loop, start: int) -> bool:
    """A stage on preference pairs: TRL trains, our run directory keeps what comes of it. It has no step in between to
    continue from."""
    recipe, accelerator, began = plan.recipe, loop.accelerator, time.perf_counter()
    if start >= plan.steps:
        return True
    if start:
        raise SrftError(
            f"a finished stage of '{recipe.method.name}' cannot go on from step {start} to {plan.steps}",
            where="training.steps",
            fix="Train it anew, as long as you want it.",
        )
    if loop.settings.done == 0 and loop.settings.evaluate_first:
        loop.evaluate(0)

    def report(step: int, logs: Mapping[str, float]) -> None:
        metrics = {"loss/dpo": logs["loss"], **{k: v for k, v in logs.items() if k not in ("loss", "epoch")}}
        loop.report(step, metrics, (), (time.perf_counter() - began) / step)

    model = accelerator.unwrap_model(loop.updater.policy.network).model
    template = TEMPLATES[recipe.data.template]
    train_on_pairs(recipe, model, plan.tokenizer, template, plan.prompts, plan.steps, accelerator.num_processes, report)
    loop.save(plan.steps)
    loop.evaluate(plan.steps)
    return True


def _headline(plan: Plan, accelerator: Accelerator, directory: RunDir, stage: str) -> str:
    recipe = plan.recipe
    rollouts = recipe.rollouts_per_prompt if "rollouts" in recipe.needs else "no"
    counts, lost = plan.counts, ""
    if counts.truncated or counts.dropped or plan.dropped_answers:
        lost = (
            f"\n{counts.truncated} over-long demonstrations truncated, {counts.dropped} dropped with "
            f"{plan.dropped_prompts} prompts; {plan.dropped_answers} problems dropped for their answer"
        )
    return (
        f"{stage}{recipe.method.name} on {recipe.model.path}: {len(plan.prompts)} problems, {plan.steps} steps of "
        f"{recipe.training.prompts_per_step} prompts, {rollouts} rollouts each; "
        f"{accelerator.num_processes} × {accelerator.device.type}; {directory.path}{lost}"
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, int | float | str) else str(value)
    return found
