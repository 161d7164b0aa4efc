"""One optimizer update: forward, the method's terms, backward, clip, step. The same numbers for any number of
micro-batches and ranks, because every term carries the counts of the whole update."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from srft.objective import Method, Need, Tokens
from srft.objective import Quantity as MethodQuantity
from srft.objective.correction import weighted_gradient
from srft.policy.forward import Quantity
from srft.policy.micro_batch import MicroBatch
from srft.processes import whole
from srft.rollout.sampler import no_progress
from srft.training.batches import UpdateBatch
from srft.training.metrics import TokenSums, check_sampler, combined


@dataclass(frozen=True)
class TrainedNetwork:
    """A network (the policy, a critic, a reward model) and its optimizer, both prepared by accelerate; or a sharded
    network, whose optimizer alone is."""

    network: Any
    optimizer: Any


class Updater:
    """Holds what an update changes: the policy and the networks trained with it, and the count of skipped updates: all
    of the stage's, and the last ones in a row.

    Args:
        policy: and its optimizer.
        method: whose terms are the loss, with its `options`.
        reference: the frozen reference policy, where the method needs one.
        auxiliary: the critic or the reward model, by the need that asks for it.
        shaping: of every advantage; see `Tokens`.
        correct: (N,) weights of the tokens' gradients from the log-probs of the policy and of the sampler, where the
            sampler is not the policy itself.
    """

    def __init__(
        self,
        policy: TrainedNetwork,
        accelerator: Accelerator,
        method: Method,
        options: Mapping[str, Any],
        max_grad_norm: float,
        *,
        reference: Any | None = None,
        auxiliary: Mapping[str, TrainedNetwork] = {},
        shaping: tuple[Any, ...] = (),
        correct: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.policy, self.accelerator, self.max_grad_norm = policy, accelerator, max_grad_norm
        self.method, self.options = method, method.defaults(options)
        self.reference, self.auxiliary, self.shaping = reference, auxiliary, shaping
        self.correct = correct
        self.quantities = {name: _bound(q, self.options) for name, q in method.vocabulary.items()}
        self.has_dropout = accelerator.unwrap_model(policy.network).has_dropout
        self.skipped = self.skipped_in_a_row = 0
        self.progress: Callable[[int], None] = no_progress  # called with the micro-batches that are done

    @property
    def networks(self) -> dict[str, TrainedNetwork]:
        """Everything that an update trains, by name."""
        return {"policy": self.policy, **self.auxiliary}

    @torch.no_grad()
    def prepare(self, batches: Sequence[UpdateBatch], needs: frozenset[Need]) -> list[UpdateBatch]:
        """The batches of a step with what the method needs from before the first of their updates: π_old is what
        sampled all of them."""
        return [self._prepared(batch, needs, several=len(batches) > 1) for batch in batches]

    def _prepared(self, batch: UpdateBatch, needs: frozenset[Need], several: bool) -> UpdateBatch:
        device = self.accelerator.device
        for trained in self.networks.values():
            trained.network.eval()  # π_old is the policy that sampled, which has no dropout
        fixed: list[dict[str, Tensor]] = [{} for _ in batch.micro_batches]
        if "reference" in needs:
            assert self.reference is not None
            with self.accelerator.autocast():  # in the policy's precision, or KL would not begin at 0
                fixed = [{"ref_logp": self.reference(m.to(device)).logp} for m in batch.micro_batches]
        # With one update a step π_old is the policy itself, and this would only repeat the forward pass.
        old = "old_logp" in needs and (several or (self.correct is not None and self.has_dropout))
        if not old and "means" not in needs:
            return replace(batch, fixed=fixed)
        table = batch.responses
        sums = defaultdict[str, Tensor](lambda: torch.zeros(len(table.length)).double())
        for micro_batch, values in zip(batch.micro_batches, fixed, strict=True):
            t = self._tokens(micro_batch.to(device), table.to(device), values)
            measured = {"logp": t.logp, "entropy": t.entropy}
            if self.method.measure is not None:
                measured |= self.method.measure(t, self.options)
            for name, x in measured.items():
                sums[name].index_add_(0, micro_batch.row, x.cpu().double())
            if old:
                named = {"old_logp": t.logp, "old_value": t.value, "old_reward_logp": t.reward_logp}
                values |= {name: x for name, x in named.items() if x is not None}
        means = {}
        for name in sorted(sums):
            # float64 all the way: a variance between responses is a small difference of large means
            total = self.accelerator.reduce(sums[name].to(device), "sum").cpu()
            means[name] = total / table.length.clamp(min=1)
        return replace(batch, responses=replace(table, mean=means), fixed=fixed)

    def update_all(self, batches: Sequence[UpdateBatch]) -> dict[str, float]:
        """One update on each batch in turn. Returns their metrics as the step's."""
        updates = [self.update(batch, is_first=i == 0) for i, batch in enumerate(batches)]
        names = {name: None for metrics in updates for name in metrics}
        return {name: combined(name, [m[name] for m in updates if name in m]) for name in names}

    def update(self, batch: UpdateBatch, is_first: bool = True) -> dict[str, float]:
        """One optimizer step on this rank's micro-batches. Returns its metrics, the same on every rank.

        Args:
            is_first: of the step: the policy is still the one that sampled.
        """
        device, sums = self.accelerator.device, TokenSums()
        table, last = batch.responses.to(device), len(batch.micro_batches) - 1
        for trained in self.networks.values():
            trained.network.train()
        fixed = batch.fixed or [{} for _ in batch.micro_batches]
        for i, (micro_batch, values) in enumerate(zip(batch.micro_batches, fixed, strict=True)):
            with ExitStack() as stack:
                for trained in self.networks.values() if i < last else ():
                    stack.enter_context(self.accelerator.no_sync(trained.network))
                micro_batch = micro_batch.to(device)
                t = self._tokens(micro_batch, table, values, self.quantities)
                # The policy that sampled is told by old_logp, or is the policy itself: before the first update, and
                # without dropout.
                known = t.old_logp is not None or (is_first and not self.has_dropout)
                sampler = micro_batch.sampler_logprobs if known else None
                weight = self._weight(t, sampler)
                terms = self.method(t if weight is None else weighted_gradient(t, weight), **self.options)
                sums.add(t, terms, sampler, weight)
                loss = torch.stack(list(terms.values())).sum()
                # Ranks' gradients are averaged, while the terms are shares of one sum over ranks.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            self.progress(1)
        metrics = sums.metrics(self.accelerator)
        check_sampler(metrics)
        norms = self._step(metrics["loss"])
        metrics |= {"grad_norm": norms.pop("policy"), "skipped_updates": self.skipped}
        return metrics | {f"grad_norm/{name}": norm for name, norm in norms.items()}

    def _weight(self, t: Tokens, sampler_logprobs: Tensor | None) -> Tensor | None:
        """(N,) of each token's gradient; None for no correction."""
        if self.correct is None or sampler_logprobs is None:
            return None
        policy = t.logp if t.old_logp is None else t.old_logp  # the policy that sampled
        return self.correct(policy.detach(), sampler_logprobs)

    def _step(self, loss: float) -> dict[str, float]:
        """Clip and step every optimizer, unless the loss or a gradient is not finite. Returns the norms before
        clipping."""
        norms = {
            name: float(whole(clip_grad_norm_(trained.network.parameters(), self.max_grad_norm)))
            for name, trained in self.networks.items()
        }
        finite = self.accept(loss, *norms.values())
        for trained in self.networks.values():
            if finite:
                trained.optimizer.step()
            trained.optimizer.zero_grad()
        return norms

    def accept(self, *numbers: float) -> bool:
        """Whether an update with this loss and these gradient norms is carried out; counts those that are not. The
        numbers are sums over all ranks, which so decide alike."""
        finite = all(map(isfinite, numbers))
        self.skipped += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        return finite

    def _tokens(
        self,
        batch: MicroBatch,
        table: Any,
        fixed: Mapping[str, Tensor],
        quantities: Mapping[str, Quantity] = {},
    ) -> Tokens:
        # The reference's distribution is for the quantities alone: log π_ref of the tokens is among the fixed values.
        reference = (self.reference,) if quantities and self.reference is not None else ()
        policy = self.policy.network(batch, quantities, *reference)
        values: dict[str, Any] = dict(fixed)
        if critic := self.auxiliary.get("critic"):
            values["value"] = _alias(critic.network(batch))
        if model := self.auxiliary.get("reward_model"):
            values["reward_logp"] = _alias(model.network(batch).logp)
        return Tokens(
            _alias(policy.logp), _alias(policy.entropy), batch.row, table,
            vocabulary={name: _alias(x) for name, x in policy.quantities.items()},
            shaping=self.shaping, record={}, **values,
        )  # fmt: skip


def _alias(output: Tensor) -> Tensor:
    """A network's output, apart from it in the graph: a gradient in this alone does not begin the network's backward
    pass, for which a sharded one would gather weights."""
    return output.view_as(output)


def _bound(quantity: MethodQuantity, options: Mapping[str, Any]) -> Quantity:
    return lambda logp, ref_logp: quantity(logp, ref_logp, options)
