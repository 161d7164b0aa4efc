"""Memory, disk and time of a run on some hardware, and what to change where it does not fit."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from srft.errors import SrftError
from srft.recipe.schema import Recipe
from srft.rollout.samplers import pick_sampler
from srft.run.plan import Plan
from srft.run.sizing.advice import advise, fits, holds_a_response, room
from srft.run.sizing.hardware import Device, this_machine
from srft.run.sizing.memory import disk, main_memory, memory, peak
from srft.run.sizing.setup import Engine, Evaluation, Lengths, Setup, make_setup
from srft.run.sizing.shape import config_for_plan, shape_of
from srft.run.sizing.step_time import evaluation_seconds, run_seconds, step_seconds
from srft.training.checkpoint_files import CheckpointFiles
from srft.training.disk import gib

HUB_PROBLEMS = 500  # taken for an evaluation whose data was not read, as MATH-500 has


@dataclass(frozen=True)
class Estimate:
    """What one stage of a run takes of each training process."""

    setup: Setup

    @cached_property
    def memory(self) -> dict[str, dict[str, float]]:
        """Bytes by part in each phase of a step."""
        return memory(self.setup)

    @property
    def total_memory(self) -> float:
        """Bytes, of the phase that needs most."""
        return peak(self.memory)[1]

    @property
    def fits(self) -> bool:
        """On the device."""
        return fits(self.setup)

    @property
    def disk(self) -> float:
        """Bytes of checkpoints, over all processes."""
        return disk(self.setup)

    @cached_property
    def step(self) -> dict[str, float]:
        """Seconds of a step by part."""
        return step_seconds(self.setup)

    @property
    def hours(self) -> float:
        """Of the stage: steps, evaluations, selection."""
        return run_seconds(self.setup) / 3600

    @property
    def gpu_hours(self) -> float:
        """Of all its devices."""
        return self.hours * self.setup.ranks

    def to_json(self) -> dict[str, Any]:
        """Bytes, seconds and hours as numbers."""
        setup = self.setup
        return {
            "device": setup.device.name,
            "devices": setup.ranks,
            "parameters": setup.shape.parameters,
            "trainable": setup.shape.trainable,
            "sharded": setup.shard,
            "engine": setup.engine if setup.samples else None,
            "lengths": setup.lengths.origin,
            "memory_bytes": self.memory,
            "total_memory_bytes": self.total_memory,
            "available_bytes": room(setup),
            "main_memory_bytes": main_memory(setup),
            "disk_bytes": self.disk,
            "fits": self.fits,
            "advice": str(advise(setup)) if not self.fits else None,
            "step_seconds": self.step,
            "evaluation_seconds": evaluation_seconds(setup),
            "steps": setup.steps,
            "hours": self.hours if setup.steps else None,
            "device_hours": self.gpu_hours if setup.steps else None,
        }


def estimate(plan: Plan, processes: int = 1) -> Estimate:
    """What a plan takes of each of the processes on this machine."""
    recipe = plan.recipe
    demonstrations = [len(d.token_ids) for p in plan.prompts for d in p.demonstrations]
    prompts = [len(p.token_ids) for p in plan.prompts]
    lengths = Lengths.measured(prompts, demonstrations, recipe.rollout.max_response_length)
    evaluations = tuple(Evaluation(len(t.groups), t.params.n, t.params.max_response_length) for t in plan.evaluations)
    device = this_machine(processes)
    resolved = pick_sampler(recipe.rollout.engine).name  # a backend of the user's own is counted as transformers
    engine: Engine = cast(Engine, resolved) if resolved in ("vllm", "server") else "transformers"
    shape = shape_of(plan.config, recipe.model.lora)
    setup = make_setup(recipe, shape, lengths, device, ranks=processes, engine=engine, evaluations=evaluations)
    return Estimate(shard_if_needed(setup))


def estimate_on(recipe: Recipe, lengths: Lengths, device: Device, devices: int = 1, verl: bool = False) -> Estimate:
    """What a recipe (or one of its stages) takes on hardware that need not be here.

    Raises:
        SrftError: the model's config is neither in a folder, nor in the local cache, nor known by name.
    """
    asked = recipe.rollout.engine
    engine: Engine = "vllm" if verl or (asked == "auto" and device.is_gpu) else "transformers"
    if asked != "auto" and not verl:
        engine = cast(Engine, asked)
    settings = recipe.evaluation
    n, limit = settings.sampling.n or 1, settings.sampling.max_response_length or recipe.rollout.max_response_length
    limits = [part.limit or settings.limit or HUB_PROBLEMS for part in settings.sets.values()]
    limits += [settings.limit or HUB_PROBLEMS for _ in settings.benchmarks]
    evaluations = tuple(Evaluation(problems, n, limit) for problems in limits)
    shape = shape_of(config_for_plan(recipe.model), recipe.model.lora)
    setup = make_setup(recipe, shape, lengths, device, ranks=devices, engine=engine, evaluations=evaluations, verl=verl)
    return Estimate(shard_if_needed(setup))


def shard_if_needed(setup: Setup) -> Setup:
    """What `training.shard: null` means: divided where several GPUs train and one could not hold the run."""
    several = setup.device.is_gpu and setup.ranks > 1 and setup.shardable
    too_large = peak(memory(setup))[1] > setup.device.memory
    return replace(setup, shard=True) if several and too_large else setup


def check_size(size: Estimate, out: Path) -> None:
    """Raises SrftError where the memory of a process or the disk will not do."""
    setup = size.setup
    kind = "of GPU memory" if setup.device.is_gpu else "of memory"
    if not holds_a_response(setup):
        raise SrftError(
            f"vLLM's {gib(setup.gpu_memory * setup.device.memory)} do not hold the model and its longest response",
            where="rollout.vllm.gpu_memory",
            fix=str(advise(setup)),
        )
    if not size.fits:
        raise SrftError(
            f"the run needs about {gib(size.total_memory)} {kind} per process, {gib(room(setup))} are free",
            where="model.path",
            fix=str(advise(setup)),
        )
    folder = next(p for p in (out, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    there = CheckpointFiles(out).replaceable(setup.keep_checkpoints)
    if size.disk > free + there:
        beside = f" besides {gib(there)} of this run's own" if there else ""
        raise SrftError(
            f"checkpoints take up to {gib(size.disk)}, {gib(free)} are free there{beside}",
            where=f"--out {out}",
            fix="Free some space, name another --out, or lower training.keep_checkpoints.",
        )
