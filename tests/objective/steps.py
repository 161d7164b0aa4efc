"""Random optimizer steps of a tiny differentiable policy, cut as the test likes. Everything is float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from srft.objective import Method, Responses, Tokens

VOCABULARY = 11


@dataclass
class Step:
    """One step: contexts and tokens of each response, the table, and what they were worth before the update."""

    contexts: list[Tensor]
    tokens: list[Tensor]
    table: Responses
    old: list[Tensor]
    ref: list[Tensor]


def policy(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(VOCABULARY, 6), nn.Tanh(), nn.Linear(6, VOCABULARY)).double()


def evaluate(model: nn.Module, context: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    logp = model(context).log_softmax(-1)
    return logp.gather(-1, tokens[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def random_step(
    groups: int = 4, rollouts: int = 4, demos: int = 1, seed: int = 0, rewards: Sequence[float] | None = None
) -> Step:
    generator = torch.Generator().manual_seed(seed)
    rows = [(g, d) for g in range(groups) for d in [False] * rollouts + [True] * demos]
    lengths = torch.randint(1, 9, (len(rows),), generator=generator)
    random_rewards = (torch.rand(len(rows), generator=generator) > 0.5).double()
    is_demo = torch.tensor([d for _, d in rows], dtype=torch.bool)
    reward = torch.where(is_demo, 1.0, random_rewards) if rewards is None else torch.tensor(rewards).double()
    contexts = [torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths.tolist()]
    tokens = [torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths.tolist()]
    with torch.no_grad():
        before = [evaluate(policy(1), c, y) for c, y in zip(contexts, tokens, strict=True)]
        reference = [evaluate(policy(2), c, y)[0] for c, y in zip(contexts, tokens, strict=True)]
    entropy = torch.stack([h.mean() for _, h in before]) if rows else torch.zeros(0)
    table = Responses(reward, torch.tensor([g for g, _ in rows]), is_demo, lengths, limit=16, entropy=entropy.double())
    return Step(contexts, tokens, table, [logp for logp, _ in before], reference)


def micro_batch(model: nn.Module, step: Step, rows: Sequence[int]) -> Tokens:
    """The tokens of some of the step's responses, in the order given."""
    parts = [evaluate(model, step.contexts[r], step.tokens[r]) for r in rows]
    return Tokens(
        logp=torch.cat([logp for logp, _ in parts]),
        entropy=torch.cat([entropy for _, entropy in parts]),
        row=torch.cat([torch.full_like(step.tokens[r], r) for r in rows]),
        step=step.table,
        old_logp=torch.cat([step.old[r] for r in rows]),
        ref_logp=torch.cat([step.ref[r] for r in rows]),
    )


def gradient(method: Method, options: dict, step: Step, cuts: Sequence[Sequence[int]]) -> tuple[float, Tensor]:
    """Loss and gradient of a step that is computed cut by cut."""
    model, total = policy(), 0.0
    for rows in cuts:
        if rows:
            loss = torch.stack(list(method(micro_batch(model, step, rows), **options).values())).sum()
            loss.backward()
            total += float(loss.detach())
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return total, torch.cat([g.flatten() for g in grads])
