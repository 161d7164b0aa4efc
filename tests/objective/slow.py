"""What the oracle tests share: a step's numbers token by token with nothing of the package's in them, and the comparison
of every term's value and gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from srft.objective import Method, Responses, Tokens
from tests.objective.steps import Step, gradient, measured, micro_batch, policy

HOW = ("token-mean", "sequence-mean", "token-sum", "constant")


class Numbers:
    """A step under a model, as lists: [response][token]."""

    def __init__(self, model: nn.Module, step: Step) -> None:
        self.step, table = step, step.table
        self.reward, self.group, self.length = table.reward.tolist(), table.group.tolist(), table.length.tolist()
        self.every = list(range(len(step.tokens)))
        self.demos = [i for i in self.every if table.is_demo[i]]
        self.rollouts = [i for i in self.every if not table.is_demo[i]]
        self.all = []  # log π over the vocabulary
        for context in step.contexts:
            weights = model(context).exp()
            self.all.append((weights / weights.sum(-1, keepdim=True)).log())
        self.logp = [[x[k, y] for k, y in enumerate(y.tolist())] for x, y in zip(self.all, step.tokens, strict=True)]
        self.old, self.ref = [x.tolist() for x in step.old], [x.tolist() for x in step.ref]

    def p(self, i: int, k: int) -> Tensor:
        return self.logp[i][k].exp()

    def ratio(self, i: int, k: int) -> Tensor:
        return (self.logp[i][k] - self.old[i][k]).exp()

    def mean(
        self,
        rows: Sequence[int],
        value: Callable[[int, int], Any],
        how: str = "token-mean",
        over: Sequence[int] | None = None,
    ) -> Any:
        """value(response, token) over the tokens of `rows`, divided by the count of `over`."""
        total, counted = 0.0 * self.logp[0][0], rows if over is None else over
        for i in rows:
            for k in range(self.length[i]):
                total = total + value(i, k) / (self.length[i] if how == "sequence-mean" else 1)
        if how == "token-mean":
            return total / max(sum(self.length[i] for i in counted), 1)
        return total / max(len(counted), 1) / (self.step.table.limit if how == "constant" else 1)

    def advantage(
        self, rows: Iterable[int], std: bool = True, reward: Sequence[float] | None = None
    ) -> dict[int, float]:
        """(r − mean) / (deviation + 1e-6) among those of `rows` that answer the same prompt."""
        rows, r, result = list(rows), self.reward if reward is None else reward, {}
        for i in rows:
            group = [r[j] for j in rows if self.group[j] == self.group[i]]
            spread = (stdev(group) if len(group) > 1 else 0.0) + 1e-6 if std else 1.0
            result[i] = (r[i] - fmean(group)) / spread
        return result

    def grpo(self, rows: Sequence[int], a: Callable[[int, int], float], how: str, **bounds: Any) -> Any:
        return -self.mean(rows, lambda i, k: clip(self.ratio(i, k), a(i, k), **bounds), how)

    def kl(self, rows: Sequence[int], how: str) -> Any:
        def k3(i: int, k: int) -> Tensor:
            x = self.ref[i][k] - self.logp[i][k]
            return x.exp() - x - 1

        return self.mean(rows, k3, how)

    def nll(
        self, rows: Sequence[int], how: str = "token-mean", weight: Callable[[int, int], float] = lambda i, k: 1.0
    ) -> Any:
        return self.mean(rows, lambda i, k: -weight(i, k) * self.logp[i][k], how)


def clip(ratio: Tensor, a: float, low: float = 0.2, high: float = 0.2, dual: float | None = None) -> Any:
    """The clipped surrogate by cases: what is out of bounds is a number."""
    if a >= 0:
        return ratio * a if ratio.item() <= 1 + high else (1 + high) * a
    if ratio.item() < 1 - low:
        return (1 - low) * a
    return ratio * a if dual is None or ratio.item() <= dual else dual * a


def same(
    method: Method, options: dict, step: Step, slow: Callable[[Numbers], dict[str, Tensor]], measure: bool = True
) -> None:
    """Each of the method's terms, and its gradient, is the slow one's."""
    step, model, other = measured(method, options, step) if measure else step, policy(), policy()
    ours = method(micro_batch(model, step, range(len(step.tokens)), method, options), **options)
    theirs = slow(Numbers(other, step))
    assert ours.keys() == theirs.keys()
    for name, term in ours.items():
        assert float(term.detach()) == pytest.approx(float(theirs[name].detach()), rel=1e-9, abs=1e-12), name
        torch.testing.assert_close(
            slope(term, model), slope(theirs[name], other), rtol=1e-7, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
        )


def slope(term: Tensor, model: nn.Module) -> Tensor:
    """The gradient of one term."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([torch.zeros(p.numel()).double() if g is None else g.flatten() for g, p in zip(gradients, parameters, strict=True)])  # fmt: skip


def equal(one: tuple[Method, dict], other: tuple[Method, dict], step: Step, rtol: float = 1e-9) -> None:
    """Two methods have the same loss and gradient on a step."""
    rows = [list(range(len(step.tokens)))]
    (loss, grad), (other_loss, other_grad) = gradient(*one, step, rows), gradient(*other, step, rows)
    assert grad.abs().max() > 0
    assert loss == pytest.approx(other_loss, rel=rtol)
    torch.testing.assert_close(grad, other_grad, rtol=rtol, atol=1e-13)


def leaves(step: Step, method: Method | None = None, **options: Any) -> Tokens:
    """All the step's tokens, their log π a leaf: its gradient is the gradient of each token."""
    t = micro_batch(policy(), step, range(len(step.tokens)), method, options)
    return replace(t, logp=t.logp.detach().requires_grad_())


def single_tokens(ratio: Sequence[float], reward: Sequence[float], demo: bool = False) -> Tokens:
    """Responses of one token each to one prompt, with the given π/π_old; log π is a leaf."""
    n, old = len(ratio), torch.linspace(-3, -0.1, len(ratio)).double()
    flags = torch.full((n,), demo)
    table = Responses(
        torch.tensor(reward, dtype=torch.float64), torch.zeros(n).long(), flags, torch.ones(n).long(), limit=4
    )
    logp = (old + torch.tensor(ratio, dtype=torch.float64).log()).requires_grad_()
    return Tokens(logp, torch.ones(n).double(), torch.arange(n), table, old_logp=old)
