"""Random optimizer steps of a tiny differentiable policy, cut as the test likes. Everything is float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    values: list[Tensor]
    reward_old: list[Tensor]


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
        values = [torch.randn(len(y), generator=generator).double() for y in tokens]
        judged = [evaluate(policy(3), c, y)[0] for c, y in zip(contexts, tokens, strict=True)]
    means = {name: torch.stack([x[k].mean() for x in before]) for k, name in enumerate(("logp", "entropy"))}
    table = Responses(reward, torch.tensor([g for g, _ in rows]), is_demo, lengths, limit=16, mean=means)
    return Step(contexts, tokens, table, [logp for logp, _ in before], reference, values, judged)


def without_rows(step: Step, rows: Sequence[int]) -> Step:
    """The step with some of its responses left out."""
    kept = [i for i in range(len(step.tokens)) if i not in rows]
    lists = {name: [x[i] for i in kept] for name, x in vars(step).items() if isinstance(x, list)}
    table = {name: x[kept] for name, x in vars(step.table).items() if isinstance(x, Tensor)}
    means = {name: x[kept] for name, x in step.table.mean.items()}
    return Step(**lists, table=replace(step.table, **table, mean=means))


def micro_batch(
    model: nn.Module, step: Step, rows: Sequence[int], method: Method | None = None, options: dict | None = None
) -> Tokens:
    """The tokens of some of the step's responses, in the order given; with all that `method` may need."""
    parts = [evaluate(model, step.contexts[r], step.tokens[r]) for r in rows]
    logits = torch.cat([model(step.contexts[r]) for r in rows]).log_softmax(-1)
    reference = torch.cat([policy(2)(step.contexts[r]) for r in rows]).log_softmax(-1).detach()
    old_value = torch.cat([step.values[r] for r in rows])
    t = Tokens(
        logp=torch.cat([logp for logp, _ in parts]),
        entropy=torch.cat([entropy for _, entropy in parts]),
        row=torch.cat([torch.full_like(step.tokens[r], r) for r in rows]),
        responses=step.table,
        old_logp=torch.cat([step.old[r] for r in rows]),
        ref_logp=torch.cat([step.ref[r] for r in rows]),
        value=old_value + logits[:, 0],  # a critic and a reward model that share the one model's weights
        old_value=old_value,
        reward_logp=torch.cat([step.reward_old[r] for r in rows]) + logits[:, 1],
        old_reward_logp=torch.cat([step.reward_old[r] for r in rows]),
    )
    if method is None:
        return t
    filled = method.defaults(options or {})
    vocabulary = {name: quantity(logits, reference, filled) for name, quantity in method.vocabulary.items()}
    return replace(t, vocabulary=vocabulary)


def measured(method: Method, options: dict, step: Step) -> Step:
    """The step with what the method measures before the first update in its table."""
    if method.measure is None:
        return step
    with torch.no_grad():
        t = micro_batch(policy(), step, range(len(step.tokens)), method, options)
        quantities = method.measure(t, method.defaults(options))
    size = len(step.tokens)
    means = {name: torch.stack([x[t.row == r].mean() for r in range(size)]) for name, x in quantities.items()}
    return replace(step, table=replace(step.table, mean={**step.table.mean, **means}))


def gradient(method: Method, options: dict, step: Step, cuts: Sequence[Sequence[int]]) -> tuple[float, Tensor]:
    """Loss and gradient of a step that is computed cut by cut."""
    model, total, step = policy(), 0.0, measured(method, options, step)
    for rows in cuts:
        if rows:
            terms = method(micro_batch(model, step, rows, method, options), **options)
            loss = torch.stack(list(terms.values())).sum()
            loss.backward()
            total += float(loss.detach())
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return total, torch.cat([g.flatten() for g in grads])
