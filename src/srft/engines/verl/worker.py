"""What runs in each of verl's training processes beside verl's own."""

from __future__ import annotations

from verl.single_controller.base.decorator import Dispatch, register
from verl.workers.engine_workers import ActorRolloutRefWorker


class PolicyWorker(ActorRolloutRefWorker):
    """verl's worker, whose learning rate the loop sets, and which can begin from the weights of the stage before."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def set_learning_rate(self, lr: float) -> None:
        """Of the next updates."""
        for group in self.actor.engine.optimizer.param_groups:
            group["lr"] = lr

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def load_weights(self, folder: str) -> None:
        """Take the weights alone from a folder that `save_checkpoint` wrote: optimizer and schedule begin anew."""
        manager = self.actor.engine.checkpoint_manager
        contents, manager.checkpoint_load_contents = manager.checkpoint_load_contents, ["model"]
        self.load_checkpoint(folder)
        manager.checkpoint_load_contents = contents
