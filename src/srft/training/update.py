"""One optimizer update: forward, the method's terms, backward, clip, step. The same numbers for any number of
micro-batches and ranks, because every term carries the counts of the whole step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from srft.objective import Method, Need, Quantity, Responses, Terms, Tokens
from srft.policy import Head, MicroBatch
from srft.processes import gather

Before = Mapping[str, Tensor]  # what a micro-batch's tokens were worth before the first update on the batch, (N,) each


@dataclass(frozen=True)
class Trained:
    """A network and its optimizer, both prepared by accelerate."""

    network: Any
    optimizer: Any


class Updater:
    """Holds what an update changes: the policy and what is trained beside it, and the count of skipped updates.

    Args:
        policy: and its optimizer.
        method: whose terms are the loss, with its `options`.
        reference: the frozen reference policy, where the method needs one.
        beside: the critic or the reward model, by the need that asks for it.
        shaping: of every advantage; see `Tokens`.
    """

    def __init__(
        self,
        policy: Trained,
        accelerator: Accelerator,
        method: Method,
        options: Mapping[str, Any],
        max_grad_norm: float,
        *,
        reference: Any | None = None,
        beside: Mapping[str, Trained] = {},
        shaping: tuple[Any, ...] = (),
    ) -> None:
        self.policy, self.accelerator, self.max_grad_norm = policy, accelerator, max_grad_norm
        self.method, self.options = method, method.defaults(options)
        self.reference, self.beside, self.shaping = reference, beside, shaping
        self.quantities = {name: _bound(q, self.options) for name, q in method.vocabulary.items()}
        self.skipped = 0

    @torch.no_grad()
    def look(
        self, step: Responses, batches: Sequence[MicroBatch], needs: frozenset[Need], again: bool
    ) -> tuple[Responses, list[Before]]:
        """What the tokens are worth before the first update on the batch, where the method needs it: the step with its
        means, and each micro-batch's values. `again`: more than one update is made on the batch."""
        before: list[dict[str, Tensor]] = [{} for _ in batches]
        if "reference" in needs:
            assert self.reference is not None
            before = [{"ref_logp": self.reference(b.to(self.accelerator.device))[0]} for b in batches]
        # With one update on a batch π_old is the policy itself, and looking would only repeat the forward pass.
        old = again and "old_logp" in needs
        if not old and "means" not in needs:
            return step, list(before)
        sums = defaultdict[str, Tensor](lambda: torch.zeros(len(step.length)).double())
        for batch, found in zip(batches, before, strict=True):
            t = self._tokens(batch.to(self.accelerator.device), step.to(self.accelerator.device), found)
            measured = {"logp": t.logp, "entropy": t.entropy}
            if self.method.measure is not None:
                measured |= self.method.measure(t, self.options)
            for name, x in measured.items():
                sums[name].index_add_(0, batch.row, x.cpu().double())
            if old:
                named = {"old_logp": t.logp, "old_value": t.value, "old_reward_logp": t.reward_logp}
                found |= {name: x for name, x in named.items() if x is not None}
        means = {}
        for name in sorted(sums):
            total = self.accelerator.reduce(sums[name].to(self.accelerator.device, torch.float32), "sum").cpu()
            means[name] = total / step.length.clamp(min=1)
        return replace(step, mean=means), list(before)

    def update(self, step: Responses, batches: Sequence[MicroBatch], before: Sequence[Before]) -> dict[str, float]:
        """One step on this rank's micro-batches of `step`. Returns the step's metrics, the same on every rank."""
        device, sums = self.accelerator.device, defaultdict[str, float](float)
        step = step.to(device)
        trained = {"policy": self.policy, **self.beside}
        for part in trained.values():
            part.network.train()
        for i, (batch, found) in enumerate(zip(batches, before, strict=True)):
            with ExitStack() as stack:
                for part in trained.values() if i < len(batches) - 1 else ():
                    stack.enter_context(self.accelerator.no_sync(part.network))
                t = self._tokens(batch.to(device), step, found, self.quantities)
                terms = self.method(t, **self.options)
                _record(sums, t, terms)
                loss = torch.stack(list(terms.values())).sum()
                # Ranks' gradients are averaged, while the terms are shares of one sum over ranks.
                self.accelerator.backward(loss * self.accelerator.num_processes)
        norms = {
            name: float(self.accelerator.clip_grad_norm_(part.network.parameters(), self.max_grad_norm))
            for name, part in trained.items()
        }
        finite = all(torch.isfinite(torch.tensor(list(norms.values()))))
        self.skipped += not finite
        for part in trained.values():
            if finite:
                part.optimizer.step()
            part.optimizer.zero_grad()
        metrics = self._summary(sums) | {"grad_norm": norms.pop("policy"), "skipped_updates": self.skipped}
        return metrics | {f"grad_norm/{name}": norm for name, norm in norms.items()}

    def _tokens(self, batch: MicroBatch, step: Responses, before: Before, quantities: Mapping[str, Any] = {}) -> Tokens:
        # The reference's distribution is for the quantities alone: log π_ref of the tokens is in `before`.
        reference = (self.reference,) if quantities and self.reference is not None else ()
        logp, entropy, vocabulary = self.policy.network(batch, quantities, *reference)
        values: dict[str, Any] = dict(before)
        if critic := self.beside.get("critic"):
            values["value"] = critic.network(batch)
        if model := self.beside.get("reward_model"):
            values["reward_logp"] = model.network(batch)[0]
        return Tokens(logp, entropy, batch.row, step, vocabulary=vocabulary, shaping=self.shaping, record={}, **values)

    def _summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        names = sorted({name for rank in gather(self.accelerator, [sorted(sums)]) for name in rank})
        values = torch.tensor([sums.get(n, 0.0) for n in names], dtype=torch.float64, device=self.accelerator.device)
        total = dict(zip(names, self.accelerator.reduce(values, "sum").tolist(), strict=True))
        found = {name: value for name, value in total.items() if name.startswith("loss/")}
        found["loss/total"] = sum(found.values())
        norms = {n.removeprefix("squares/"): v**0.5 for n, v in total.items() if n.startswith("squares/")}
        for name, norm in norms.items():
            found[f"gradient_share/{name}"] = norm / (sum(norms.values()) or 1.0)
        for name, count in total.items():
            if name.startswith("tokens/") and count:
                shown = name.removeprefix("tokens/")
                found[shown] = total[f"sum/{shown}"] / count
        return found


def _bound(quantity: Quantity, options: Mapping[str, Any]) -> Head:
    return lambda logp, ref_logp: quantity(logp, ref_logp, options)


def _record(sums: dict[str, float], t: Tokens, terms: Terms) -> None:
    """Add up, over micro-batches, what the metrics are made of. `squares/…` are of the gradient in log π, H and what
    else the networks gave, whose squares add up exactly because every token is in one micro-batch."""
    given = [x for x in (t.logp, t.entropy, t.value, t.reward_logp, *t.vocabulary.values()) if x is not None]
    for name, term in terms.items():
        sums[f"loss/{name}"] += float(term.detach())
        parts = torch.autograd.grad(term, given, retain_graph=True, allow_unused=True)
        sums[f"squares/{name}"] += sum(float(g.detach().square().sum()) for g in parts if g is not None)
    views = {"demo": t.demo, "rollout": t.rollout, "correct": t.rollout.correct, "wrong": t.rollout.wrong}
    for name, view in views.items():
        sums[f"sum/entropy/{name}"] += float(view.entropy.detach().sum())
        sums[f"tokens/entropy/{name}"] += len(view.entropy)
    for name, (total, count) in (t.record or {}).items():
        sums[f"sum/method/{name}"] += float(total)
        sums[f"tokens/method/{name}"] += count
