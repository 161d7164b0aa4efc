"""verl's worker group and servers, driven by our loop in place of verl's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from omegaconf import OmegaConf
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils.device import auto_set_device

from srft.engines.verl.worker import PolicyWorker
from srft.errors import SrftError


class Cluster(PPOTrainerSync):
    """The sharded policy, its reference and the servers that sample from it, on the GPUs that Ray has.

    Trainer and servers share the GPUs in turn: `wake` hands the present weights to the servers and lets them sample,
    `sleep` gives their memory back before a pass of the trainer.

    Args:
        config: verl's, from `compose_config`.
    """

    role_worker_mapping: dict[Any, Any]

    def __init__(self, config: Any) -> None:
        _start_ray(config)
        auto_set_device(config)
        super().__init__(config)
        self.timing_raw: dict[str, float] = {}  # which verl's own loop would fill
        self.curr_step_profile = False
        self.init()
        self.awake = True

    @property
    def ranks(self) -> int:
        """Data-parallel ranks, among which a batch is shared out."""
        return int(max(self.actor_rollout_wg._query_dispatch_info("actor"))) + 1

    def wake(self) -> None:
        """Hand the present weights to the servers."""
        self.sleep()
        self.on_step_end()
        self.awake = True

    def sleep(self) -> None:
        """Leave the GPUs to the trainer."""
        if self.awake:
            self.on_sample_end()
        self.awake = False

    def close(self) -> None:
        """End workers and servers; a cluster that was there before stays."""
        ray.shutdown()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Closed at the end.

        Raises:
            SrftError: a worker or a server died.
        """
        try:
            yield
        except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as error:
            fix = "Ray's logs say more (session_latest/logs in its folder, /tmp/ray). Continue with --resume."
            raise SrftError(
                f"a process ended: {' '.join(str(error).split())}", where="--engine verl", fix=fix
            ) from error
        finally:
            self.close()

    def _init_dataloader(self) -> None:
        """The loop draws the prompts."""
        OmegaConf.update(self.config, "actor_rollout_ref.actor.optim.total_training_steps", 1, force_add=True)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        self.role_worker_mapping = {role: ray.remote(PolicyWorker) for role in self.role_worker_mapping}

    def _load_checkpoint(self) -> None:
        """The loop says what to begin from."""
        self.global_steps = 0


def _start_ray(config: Any) -> None:
    """Connect to the cluster that runs here or that RAY_ADDRESS names, or start one of this machine."""
    asked = config.ray_kwargs.get("ray_init", {})
    runtime_env = OmegaConf.merge(get_ppo_ray_runtime_env(config), asked.get("runtime_env", {}))
    quiet = {"log_to_driver": bool(os.environ.get("SRFT_DEBUG"))}  # workers' words would break the live display
    ray.init(**OmegaConf.to_container(OmegaConf.create({**quiet, **asked, "runtime_env": runtime_env})))
