"""One optimizer update: forward, the method's terms, backward, clip, step. The same numbers for any number of
micro-batches and ranks, because every term carries the counts of the whole step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from srft.objective import Method, Responses, Terms, Tokens
from srft.policy import MicroBatch


@dataclass(frozen=True)
class Before:
    """What a micro-batch's tokens were worth before the first update on the batch, (N,) each, where it is needed."""

    logp: Tensor | None = None
    ref_logp: Tensor | None = None


@torch.no_grad()
def look(policy: Any, batches: Sequence[MicroBatch], accelerator: Accelerator) -> list[tuple[Tensor, Tensor]]:
    """log π and entropy of each micro-batch, without a graph."""
    return [policy(batch.to(accelerator.device)) for batch in batches]


def response_entropy(looks: Sequence[tuple[Tensor, Tensor]], batches: Sequence[MicroBatch], size: int) -> Tensor:
    """(S,) this rank's share of the mean token entropy of each response of the step: zero where it is another's."""
    total, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for (_, entropy), batch in zip(looks, batches, strict=True):
        total.index_add_(0, batch.row, entropy.cpu().double())
        count.index_add_(0, batch.row, torch.ones_like(batch.row, dtype=torch.float64))
    return (total / count.clamp(min=1)).float()


class Updater:
    """Holds what an update changes: the policy, the optimizer, and the count of skipped updates."""

    def __init__(
        self,
        policy: Any,
        optimizer: Any,
        accelerator: Accelerator,
        method: Method,
        options: Mapping[str, Any],
        max_grad_norm: float,
    ) -> None:
        self.policy, self.optimizer, self.accelerator = policy, optimizer, accelerator
        self.method, self.options, self.max_grad_norm = method, dict(options), max_grad_norm
        self.skipped = 0

    def update(self, step: Responses, batches: Sequence[MicroBatch], before: Sequence[Before]) -> dict[str, float]:
        """One step on this rank's micro-batches of `step`. Returns the step's metrics, the same on every rank."""
        device, sums = self.accelerator.device, defaultdict[str, float](float)
        step = step.to(device)
        self.policy.train()
        for i, (batch, old) in enumerate(zip(batches, before, strict=True)):
            last = i == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.policy):
                batch = batch.to(device)
                logp, entropy = self.policy(batch)
                t = Tokens(logp, entropy, batch.row, step, old_logp=old.logp, ref_logp=old.ref_logp)
                terms = self.method(t, **self.options)
                _record(sums, t, terms)
                loss = torch.stack(list(terms.values())).sum()
                # Ranks' gradients are averaged, while the terms are shares of one sum over ranks.
                self.accelerator.backward(loss * self.accelerator.num_processes)
        norm = self.accelerator.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
        else:
            self.skipped += 1
        self.optimizer.zero_grad()
        return {**self._summary(sums), "grad_norm": float(norm), "skipped_updates": self.skipped}

    def _summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        names = sorted({name for rank in gather(self.accelerator, [sorted(sums)]) for name in rank})
        values = torch.tensor([sums.get(n, 0.0) for n in names], dtype=torch.float64, device=self.accelerator.device)
        total = dict(zip(names, self.accelerator.reduce(values, "sum").tolist(), strict=True))
        found = {name: value for name, value in total.items() if name.startswith("loss/")}
        found["loss/total"] = sum(found.values())
        norms = {n.removeprefix("squares/"): v**0.5 for n, v in total.items() if n.startswith("squares/")}
        for name, norm in norms.items():
            found[f"gradient_share/{name}"] = norm / (sum(norms.values()) or 1.0)
        for view in ("demo", "rollout", "correct", "wrong"):
            if count := total[f"tokens/{view}"]:
                found[f"entropy/{view}"] = total[f"entropy/{view}"] / count
        return found


def gather(accelerator: Accelerator, objects: list) -> list:
    """The lists of all ranks as one, in the order of ranks."""
    if accelerator.num_processes == 1:
        return objects
    everyone: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(everyone, objects)
    return [item for part in everyone for item in part]


def _record(sums: dict[str, float], t: Tokens, terms: Terms) -> None:
    """Add up, over micro-batches, what the metrics are made of. `squares/…` are of the gradient in log π and H, whose
    squares add up exactly because every token is in one micro-batch."""
    for name, term in terms.items():
        sums[f"loss/{name}"] += float(term.detach())
        parts = torch.autograd.grad(term, (t.logp, t.entropy), retain_graph=True, allow_unused=True)
        sums[f"squares/{name}"] += sum(float(g.detach().square().sum()) for g in parts if g is not None)
    views = {"demo": t.demo, "rollout": t.rollout, "correct": t.rollout.correct, "wrong": t.rollout.wrong}
    for name, view in views.items():
        sums[f"entropy/{name}"] += float(view.entropy.detach().sum())
        sums[f"tokens/{name}"] += len(view.entropy)
