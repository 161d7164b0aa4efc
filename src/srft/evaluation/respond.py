"""The model under evaluation: it answers problems, its answers are graded and looked at token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from srft.data import Problem, Prompt
from srft.errors import SrftError
from srft.evaluation import ifeval
from srft.evaluation.extract import boxed
from srft.evaluation.records import Record
from srft.policy import Pair, Policy, cut
from srft.rollout import Sample, Sampler
from srft.seed import derive_seed
from srft.verify import Verifier
from srft.verify.answer import answer_of

STATISTICS_TOKENS = 16384  # padded tokens of one forward pass


@dataclass(frozen=True)
class Draw:
    """How a benchmark is sampled: responses of a problem, temperature, top-p, tokens, what seeds them, and which answer
    counts: the `boxed` one, or failing that the `last` one that is stated."""

    name: str
    n: int
    temperature: float
    top_p: float
    max_response_length: int
    seed: int
    extract: str = "boxed"


class Responder:
    """Samples, grades and measures.

    Args:
        policy: for entropy, branching factor and perplexity, of the model's own distribution (temperature 1); None
            leaves them out.
        tokenizer: the model's.
    """

    def __init__(
        self, sampler: Sampler, verifier: Verifier, tokenizer: Any, policy: Policy | None, pad_token_id: int
    ) -> None:
        self.sampler, self.verifier, self.tokenizer = sampler, verifier, tokenizer
        self.policy, self.pad_token_id = policy, pad_token_id

    def respond(self, prompts: Sequence[tuple[int, Prompt]], draw: Draw) -> list[Record]:
        """`draw.n` records of each (number in the benchmark, prompt), in their order. What is drawn for a problem
        depends on the seed, the benchmark and its number alone."""
        groups = self.sampler.sample(
            [prompt.ids for _, prompt in prompts],
            n=draw.n,
            seeds=[derive_seed(draw.seed, "evaluation", draw.name, number) for number, _ in prompts],
            max_new_tokens=draw.max_response_length,
            temperature=draw.temperature,
            top_p=draw.top_p,
        )
        drawn = [(n, p, slot, s) for (n, p), group in zip(prompts, groups, strict=True) for slot, s in enumerate(group)]
        texts = [self.tokenizer.decode(s.token_ids, skip_special_tokens=True) for *_, s in drawn]
        whole = [prompt.opening + text for (_, prompt, _, _), text in zip(drawn, texts, strict=True)]
        if draw.extract == "last":
            whole = [boxed(text) for text in whole]
        scores = self._grade([(p.problem, text) for (_, p, _, _), text in zip(drawn, whole, strict=True)])
        looks = self._look([(p, s) for _, p, _, s in drawn])
        return [
            {
                "problem": number, "sample": slot, "prompt": prompt.problem.prompt, "gold": prompt.problem.answer,
                "grader": prompt.problem.grader,
                "response": text, "answer": answer_of(full), "tokens": len(sample.token_ids),
                "finished": sample.finished, **score, **look,
            }
            for (number, prompt, slot, sample), text, full, score, look in zip(
                drawn, texts, whole, scores, looks, strict=True
            )
        ]  # fmt: skip

    def _grade(self, items: Sequence[tuple[Problem, str]]) -> list[Record]:
        if items and items[0][0].grader == "ifeval":
            return [ifeval.score(problem.metadata, text) for problem, text in items]
        return [{"score": g.reward, "verdict": g.verdict.value} for g in self.verifier.grade(items)]

    @torch.no_grad()
    def _look(self, items: Sequence[tuple[Prompt, Sample]]) -> list[Record]:
        """Means over the tokens of each response: entropy (nats), branching factor, log π."""
        if self.policy is None:
            return [{} for _ in items]
        pairs = [Pair(prompt.ids, sample.token_ids, row) for row, (prompt, sample) in enumerate(items)]
        count = torch.tensor([max(len(s.token_ids), 1) for _, s in items], dtype=torch.float64)
        sums = torch.zeros(3, len(items), dtype=torch.float64)
        device = next(self.policy.parameters()).device
        for batch in cut([p for p in pairs if p.response], STATISTICS_TOKENS, self.pad_token_id):
            logp, entropy, rest = self.policy(batch.to(device), {"branching": branching_factor})
            for total, values in zip(sums, (logp, entropy, rest["branching"]), strict=True):
                total.index_add_(0, batch.row, values.double().cpu())
        return [
            {"entropy": round(h, 5), "rbf": round(b, 4), "logp": round(p, 5)}
            for p, h, b in zip(*(sums / count).tolist(), strict=True)
        ]


def branching_factor(log_probs: Tensor, _: Tensor | None = None, mass: float = 0.95) -> Tensor:
    """(N,) the size of the smallest set of tokens that holds `mass` of each distribution, from log π (N, V)."""
    probs = log_probs.exp()
    size, count = probs.new_zeros(len(probs)), 32  # a few nearly always do, so few are sorted at first
    rows = torch.arange(len(probs), device=probs.device)
    while len(rows):
        count = min(count, probs.shape[-1])
        sums = probs[rows].topk(count, sorted=True).values.cumsum(-1)
        size[rows] = ((sums < mass).sum(-1) + 1).clamp(max=count).to(size.dtype)
        if count == probs.shape[-1]:
            break
        rows, count = rows[sums[:, -1] < mass], count * 16
    return size


def check_gold(verifier: Verifier, problems: Sequence[Problem]) -> int:
    """How many problems' own answers do not grade as right: no response could be.

    Raises:
        SrftError: the grader is unknown, or none would be right.
    """
    if not problems or problems[0].grader == "ifeval":
        return 0
    bad = verifier.self_check(problems)
    if len(bad) == len(problems):
        raise SrftError(
            f"no answer grades as equal to itself, '{bad[0].answer}' among them",
            where=bad[0].where,
            fix=f"The grader '{bad[0].grader}' is not for this benchmark.",
        )
    return len(bad)
