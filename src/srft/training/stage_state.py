"""What a stage is continued from besides the policy's weights: optimizers, schedule, position in the data, hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from srft.training.checkpoint import load_tensors, optimizer_state, room_for_optimizer_state, trained_weights
from srft.training.hooks import Hook
from srft.training.prompt_stream import PromptStream
from srft.training.update import TrainedNetwork, Updater


class StageState:
    """The parts of a stage that have a state.

    Args:
        stream: of prompts.
        updater: policy, optimizer and method.
        scheduler: of the learning rate.
    """

    def __init__(
        self, accelerator: Accelerator, stream: PromptStream, updater: Updater, scheduler: Any, hooks: Sequence[Hook]
    ) -> None:
        self.accelerator, self.stream, self.updater = accelerator, stream, updater
        self.scheduler, self.hooks = scheduler, hooks

    def networks(self) -> dict[str, TrainedNetwork]:
        """Everything with an optimizer, by name."""
        networks = self.updater.networks
        for hook in self.hooks:
            networks |= hook.networks()
        return networks

    def values(self) -> dict[str, Any]:
        """What is no tensor, as JSON has it."""
        return {
            "position": self.stream.position,
            "hooks": {hook.name: hook.state() for hook in self.hooks},
            "skipped": self.updater.skipped,
            "schedule": self.scheduler.last_epoch,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Optimizers, and the weights of the networks beside the policy, by the names that they are saved under."""
        tensors = self._auxiliary_weights()
        for name, part in self.networks().items():
            tensors |= optimizer_state(name, self.accelerator.unwrap_model(part.network), part.optimizer)
        return tensors

    def restore(self, values: Mapping[str, Any], checkpoint: Path) -> None:
        """Continue from a checkpoint, whose `values` these are; the policy has its weights already. Learning rates and
        schedule are those of the recipe in force, which may be longer than the saved one's."""
        self.stream.position, self.updater.skipped = values["position"], values["skipped"]
        for hook in self.hooks:
            if hook.name in values["hooks"]:  # else it is new in the recipe, and begins here
                hook.load_state(values["hooks"][hook.name])
        tensors = self._auxiliary_weights()
        for name, part in self.networks().items():
            network = self.accelerator.unwrap_model(part.network)
            tensors |= room_for_optimizer_state(checkpoint, name, network, part.optimizer)
        load_tensors(checkpoint, tensors)
        schedule, groups = self.scheduler, self.updater.policy.optimizer.param_groups
        schedule.last_epoch = values["schedule"]
        for group, base, share in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = base * share(schedule.last_epoch)

    def _auxiliary_weights(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for name, part in self.updater.auxiliary.items():
            weights |= trained_weights(name, self.accelerator.unwrap_model(part.network))
        return weights
