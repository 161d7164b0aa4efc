"""What a checkpoint holds beside the model, so that a resumed run goes on as if it had not stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from srft.training.loop import Loop


def state_of(loop: Loop, step: int) -> dict[str, Any]:
    """The loop's state after `step` of its stage."""
    unwrap, beside = loop.accelerator.unwrap_model, loop.updater.beside
    return {
        "stage": loop.settings.stage,
        "done": loop.settings.done,
        "step": step,
        "cursor": loop.cursor,
        "waiting": loop.waiting,
        "skipped": loop.updater.skipped,
        "scheduler": loop.scheduler.state_dict(),
        "optimizers": {name: part.optimizer.state_dict() for name, part in loop.trained().items()},
        "beside": {name: unwrap(part.network).state_dict() for name, part in beside.items()},
    }


def restore(loop: Loop, state: Mapping[str, Any]) -> None:
    """Continue from a checkpoint's state; the policy has its weights already. Learning rates and schedule are
    those of the recipe in force, which may be longer than the one that was saved."""
    loop.cursor, loop.waiting, loop.updater.skipped = state["cursor"], state["waiting"], state["skipped"]
    for name, part in loop.trained().items():
        rates = [group["lr"] for group in part.optimizer.param_groups]
        part.optimizer.load_state_dict(state["optimizers"][name])
        for group, rate in zip(part.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    schedule, groups = loop.scheduler, loop.updater.policy.optimizer.param_groups
    schedule.last_epoch = state["scheduler"]["last_epoch"]
    for group, base, share in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * share(schedule.last_epoch)
    for name, part in loop.updater.beside.items():
        loop.accelerator.unwrap_model(part.network).load_state_dict(state["beside"][name])
    loop.history = [row for row in loop.run.metrics if row["stage"] == loop.settings.stage]


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The state saved in a checkpoint."""
    return torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
