"""An optimizer update by verl's workers, with the batches, metrics and learning rate of our loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from srft.engines.verl.batch import by_row, shared_out, to_verl
from srft.engines.verl.loss import SUMS, Loss
from srft.engines.verl.policy import ShardedPolicy
from srft.objective import Need, Tokens
from srft.objective.tokens import Responses
from srft.policy.micro_batch import ModelInput
from srft.rollout.response import Response
from srft.training.batches import Batcher, UpdateBatch
from srft.training.metrics import TokenSums, check_sampler
from srft.training.update import Updater


@dataclass(frozen=True)
class SequenceBatch(UpdateBatch):
    """What one update works on, before verl cuts it into micro-batches.

    Args:
        inputs: one for each row of the table, in order.
        values: (S lists of tokens) by name, from before the first update on the step's responses.
    """

    inputs: Sequence[ModelInput] = ()
    values: dict[str, Sequence[Tensor]] | None = None


class SequenceBatcher(Batcher):
    """Makes batches of whole sequences."""

    def make(self, responses: Sequence[Response], step: int) -> SequenceBatch:
        """One batch of all `responses`."""
        table = Responses(
            reward=torch.tensor([r.reward for r in responses], dtype=torch.float32),
            group=torch.tensor([r.group_id for r in responses], dtype=torch.long),
            right=torch.tensor([r.is_correct for r in responses], dtype=torch.bool),
            is_demo=torch.tensor([r.is_demo for r in responses], dtype=torch.bool),
            length=torch.tensor([len(r.token_ids) for r in responses], dtype=torch.long),
            limit=self.max_response_length,
            step=step,
        )
        return SequenceBatch(table, (), inputs=[r.model_input(row) for row, r in enumerate(responses)])


class VerlUpdater(Updater):
    """An updater whose policy lies on verl's workers. The policy's optimizer is one without weights: it holds the
    learning rate that the schedule sets."""

    def begin(self, file: str | None) -> None:
        """Give the workers the method, which they read from `file` where it is the user's own."""
        loss = Loss(self.method.name, file, self.options, self.shaping, self.correct)
        self.workers.set_loss_fn(loss)

    @property
    def sharded(self) -> ShardedPolicy:
        """The policy."""
        sharded: ShardedPolicy = self.policy.network
        return sharded

    @property
    def workers(self) -> Any:
        """verl's worker group."""
        return self.sharded.cluster.actor_rollout_wg

    def _prepared(self, batch: UpdateBatch, needs: frozenset[Need], several: bool) -> UpdateBatch:
        assert isinstance(batch, SequenceBatch)
        self.sharded.cluster.sleep()
        table, values = batch.responses, dict[str, Sequence[Tensor]]()
        if "reference" in needs:
            values["ref_logp"] = self._measured(batch, "compute_ref_log_prob", "log_probs")[0]
        # With one update a step π_old is the policy itself, and this would only repeat the forward pass.
        old = "old_logp" in needs and (several or (self.correct is not None and self.has_dropout))
        if old or "means" in needs:
            logp, entropy = self._measured(batch, "compute_log_prob", "log_probs", "entropy")
            values |= {"old_logp": logp} if old else {}
            row = torch.arange(len(logp)).repeat_interleave(table.length)
            t = Tokens(torch.cat(list(logp)), torch.cat(list(entropy)), row, table, record={})
            measured = {"logp": t.logp, "entropy": t.entropy}
            if self.method.measure is not None:
                measured |= self.method.measure(t, self.options)
            zeros = torch.zeros(len(logp), dtype=torch.float64)
            totals = {name: zeros.index_add(0, row, x.double()) for name, x in sorted(measured.items())}
            table = replace(table, mean={name: x / table.length.clamp(min=1) for name, x in totals.items()})
        return replace(batch, responses=table, values=values)

    def _measured(self, batch: SequenceBatch, function: str, *outputs: str) -> list[list[Tensor]]:
        """What a forward pass without gradient says of each row's response tokens, by output."""
        inputs = shared_out(batch.inputs, self.sharded.cluster.ranks)
        data = to_verl(inputs, calculate_entropy="entropy" in outputs, compute_loss=False)
        found = getattr(self.workers, function)(data)
        return [by_row(found[name], inputs, len(batch.inputs)) for name in outputs]

    def update(self, batch: UpdateBatch, is_first: bool = True) -> dict[str, float]:
        """One optimizer step. Returns its metrics."""
        assert isinstance(batch, SequenceBatch)
        self.sharded.cluster.sleep()
        self.workers.set_learning_rate(self.policy.optimizer.param_groups[0]["lr"])
        values = batch.values or {}
        # The policy that sampled is told by old_logp, or is the policy itself: before the first update, no dropout.
        known = "old_logp" in values or (is_first and not self.has_dropout)
        given = batch.inputs if known else [replace(x, sampler_logprobs=None) for x in batch.inputs]
        inputs = shared_out(given, self.sharded.cluster.ranks)
        data = to_verl(
            inputs,
            values,
            table=batch.responses,
            calculate_entropy=True,
            distillation_use_topk=bool(self.method.vocabulary),  # verl's word for handing the logits to the loss
            global_batch_size=len(inputs),
            mini_batch_size=len(inputs),
            epochs=1,
            seed=0,
            dataloader_kwargs={"shuffle": False},
        )
        found = self.workers.update_actor(data)["metrics"]
        sums = TokenSums()
        for part in _flat(found[SUMS]):
            sums += part
        metrics = sums.metrics(self.accelerator)
        check_sampler(metrics)
        norm = float(_flat(found["grad_norm"])[0])
        self.accept(norm)  # verl's workers leave out an update whose gradient is not finite
        return metrics | {"grad_norm": norm, "skipped_updates": self.skipped}


def _flat(value: Any) -> list[Any]:
    """verl wraps a metric once for each level that gathers it."""
    return list(chain.from_iterable(map(_flat, value))) if isinstance(value, list | tuple) else [value]
