"""`python -m torch.distributed.run … worker_group.py FOLDER`: the cases by verl's FSDP2 workers, one a process.

Reads FOLDER/responses.pickle, writes FOLDER/<case>.json (metrics) and FOLDER/<case>/huggingface (weights). Ray is left
out: each process holds verl's worker, and `WorkerGroup` deals the batches out as Ray's worker group would.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from verl.utils.tensordict_utils import chunk_tensordict

from srft.data.load import resolve_path
from srft.engines.verl.config import compose_config, settings, split_overrides
from srft.engines.verl.policy import ShardedPolicy
from srft.engines.verl.stage import make_correction, make_shaping
from srft.engines.verl.updater import SequenceBatcher, VerlUpdater
from srft.engines.verl.worker import PolicyWorker
from srft.policy.load import load_config
from srft.rollout.sampler import Sampler
from srft.training.update import TrainedNetwork
from tests.engines.verl.cases import CASES, LR, TOKENS
from tests.engines.verl.on_cpus import overrides

ALONE: Any = SimpleNamespace(
    num_processes=1, device=torch.device("cpu"), reduce=lambda x, how: x, unwrap_model=lambda m: m
)


class WorkerGroup:
    """What Ray's worker group does, from within each of its processes."""

    def __init__(self, config: Any) -> None:
        self.actor = PolicyWorker(config=config.actor_rollout_ref, role="actor")
        self.actor.init_model()
        self.reference = PolicyWorker(config=config.actor_rollout_ref, role="ref")
        self.reference.init_model()
        self.set_loss_fn, self.set_learning_rate = self.actor.set_loss_fn, self.actor.set_learning_rate

    def update_actor(self, data: Any) -> Any:
        return self.actor.update_actor(self._mine(data))

    def compute_log_prob(self, data: Any) -> dict[str, Any]:
        return self._everyones(self.actor.compute_log_prob(self._mine(data)))

    def compute_ref_log_prob(self, data: Any) -> dict[str, Any]:
        return self._everyones(self.reference.compute_ref_log_prob(self._mine(data)))

    def _mine(self, data: Any) -> Any:
        return chunk_tensordict(data, dist.get_world_size())[dist.get_rank()]

    def _everyones(self, found: Any) -> dict[str, Any]:
        together: dict[str, Any] = {}
        for name in ("log_probs", "entropy"):
            if name in found:
                parts: list[Any] = [None] * dist.get_world_size()
                dist.all_gather_object(parts, list(found[name].unbind()))
                flat = [x for part in parts for x in part]
                together[name] = torch.nested.as_nested_tensor(flat, layout=torch.jagged)
        return together


def main(folder: Path) -> None:
    responses = pickle.loads((folder / "responses.pickle").read_bytes())
    _, given = split_overrides(overrides(ranks=int(os.environ["WORLD_SIZE"])))
    tokens = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
    group = WorkerGroup(compose_config(settings(CASES[0].recipe, TOKENS), [*given, f"{tokens}={TOKENS}"]))
    cluster: Any = SimpleNamespace(actor_rollout_wg=group, ranks=dist.get_world_size(), sleep=lambda: None)
    for case in CASES:
        recipe = case.recipe
        group.actor.actor.reset()  # the model's own weights, a fresh optimizer
        policy = ShardedPolicy(cluster, load_config(recipe.model), resolve_path(recipe.model.path))
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=LR)
        updater = VerlUpdater(
            TrainedNetwork(policy, optimizer), ALONE, recipe.loss, recipe.method_options, 1.0,
            shaping=make_shaping(recipe.advantage), correct=make_correction(recipe.rollout, Sampler),
        )  # fmt: skip
        updater.begin(None)
        kept = [r for r in responses if ("demonstrations" if r.is_demo else "rollouts") in recipe.needs]
        batcher = SequenceBatcher(ALONE, max_response_length=160, tokens_per_micro_batch=TOKENS, pad_token_id=0)
        batches = batcher.split(kept, 3, 4, case.updates)
        metrics = updater.update_all(updater.prepare(batches, recipe.needs))
        group.actor.save_checkpoint(str(folder / case.name), None, 0, None)
        if dist.get_rank() == 0:
            (folder / f"{case.name}.json").write_text(json.dumps(metrics))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
