"""Whether a stage's networks are sharded over the processes."""

from __future__ import annotations

from dataclasses import replace

import torch
from accelerate import Accelerator

from srft.errors import SrftError
from srft.processes import gather
from srft.run.estimate import estimate
from srft.run.plan import Plan

LAUNCH = "python -m torch.distributed.run --standalone --nproc_per_node 2 -m srft train …"


def with_sharding(plan: Plan, accelerator: Accelerator) -> Plan:
    """The plan with `training.shard` decided: as the recipe says, or where several GPUs train and one of them could not
    hold the run. One process that no launcher started has nobody to share with.

    Raises:
        SrftError: the recipe wants what cannot be sharded, offloads what is not, or saves shards by a thread.
    """
    training, needs = plan.recipe.training, plan.recipe.needs
    quantization = plan.recipe.model.quantization
    possible = torch.distributed.is_initialized() and "preferences" not in needs and quantization is None
    wanted = training.offload or _is_too_large(plan, accelerator) if training.shard is None else training.shard
    sharded = possible and wanted
    if "preferences" in needs and (training.shard or training.offload):
        raise SrftError(
            f"'{plan.recipe.method.name}' is trained by TRL, on whole weights",
            where="training.shard",
            fix="Set training.shard: false in this stage.",
        )
    if quantization and (training.shard or training.offload):
        raise SrftError(
            "weights in 4 bits are not sharded",
            where="training.shard",
            fix="Set training.shard: false, or model.quantization: null.",
        )
    if training.offload and not sharded:
        raise SrftError(
            "this process was not started by a launcher, and has no shards to keep in the CPU's memory",
            where="training.offload",
            fix=f"Launch it, with one process for each GPU: {LAUNCH}",
        )
    if training.checkpoint_async and sharded:
        raise SrftError(
            "one GPU cannot hold the run, and every process writes its own part of what is sharded",
            where="training.checkpoint_async",
            fix="Leave it out.",
        )
    decided = training.model_copy(update={"shard": sharded})
    return replace(plan, recipe=plan.recipe.model_copy(update={"training": decided}))


def _is_too_large(plan: Plan, accelerator: Accelerator) -> bool:
    """One GPU of several cannot hold the run."""
    if accelerator.device.type != "cuda" or accelerator.num_processes == 1:
        return False
    return any(gather(accelerator, [estimate(plan).total_memory > torch.cuda.mem_get_info()[0]]))
