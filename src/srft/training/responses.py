"""From problems to a step's graded responses: the policy's rollouts and the expert's demonstrations, by prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from srft.data import Prompt
from srft.objective import Need, Responses
from srft.policy import Pair
from srft.rollout import Sampler
from srft.seed import derive_seed
from srft.training.prompts import Asking, as_it_is
from srft.verify import Grade, Verifier


@dataclass(frozen=True)
class Response:
    """One graded response.

    Args:
        slot: its prompt's place in the step.
        prompt: what it answers.
        token_ids: its tokens, EOS included where it ended by itself.
        is_demo: the expert's, else the policy's own.
        finished: ended by itself, not cut at the limit.
        text: the decoded tokens.
        grade: the verifier's.
    """

    slot: int
    prompt: Prompt
    token_ids: Sequence[int]
    is_demo: bool
    finished: bool
    text: str
    grade: Grade

    def to_json(self) -> dict[str, Any]:
        """As it is saved in the run directory."""
        return {
            "prompt": self.prompt.problem.prompt,
            "answer": self.prompt.problem.answer,
            "response": self.text,
            "is_demo": self.is_demo,
            "score": self.grade.reward,
            "verdict": self.grade.verdict.value,
            "tokens": len(self.token_ids),
            "finished": self.finished,
        }


@dataclass(frozen=True)
class Sampling:
    """How rollouts are drawn: how many per prompt, at which temperature, how long (tokens)."""

    n: int
    temperature: float
    top_p: float
    max_response_length: int


class Collector:
    """Samples and grades. Keeps the demonstrations' grades, which never change. `ask` says what a prompt's rollouts
    answer."""

    def __init__(self, sampler: Sampler, verifier: Verifier, tokenizer: Any, seed: int, ask: Asking = as_it_is) -> None:
        self.sampler, self.verifier, self.tokenizer, self.seed, self.ask = sampler, verifier, tokenizer, seed, ask
        self._demo_grades: dict[tuple[str, str], Grade] = {}

    def rollouts(self, prompts: Sequence[tuple[int, Prompt]], how: Sampling, purpose: str) -> list[Response]:
        """`how.n` graded samples of each (slot, prompt). `purpose` (the step, or the evaluation) seeds the draws."""
        groups = self.sampler.sample(
            [prompt.ids for _, prompt in prompts],
            n=how.n,
            seeds=[derive_seed(self.seed, purpose, slot) for slot, _ in prompts],
            max_new_tokens=how.max_response_length,
            temperature=how.temperature,
            top_p=how.top_p,
        )
        drawn = [(slot, p, s) for (slot, p), group in zip(prompts, groups, strict=True) for s in group]
        texts = [self._decode(sample.token_ids) for _, _, sample in drawn]
        grades = self.verifier.grade([(p.problem, p.opening + x) for (_, p, _), x in zip(drawn, texts, strict=True)])
        return [
            Response(slot, prompt, sample.token_ids, False, sample.finished, text, grade)
            for (slot, prompt, sample), text, grade in zip(drawn, texts, grades, strict=True)
        ]

    def demonstrations(self, prompts: Sequence[tuple[int, Prompt]], per_prompt: int) -> list[Response]:
        """The first `per_prompt` demonstrations of each prompt, graded like any other response."""
        found = []
        for slot, prompt in prompts:
            for ids, cut in list(zip(prompt.demonstrations, prompt.truncated, strict=True))[:per_prompt]:
                text = self._decode(ids)
                key = (prompt.problem.answer, prompt.opening + text)
                if key not in self._demo_grades:
                    self._demo_grades[key] = self.verifier.grade([(prompt.problem, key[1])])[0]
                found.append(Response(slot, prompt, ids, True, not cut, text, self._demo_grades[key]))
        return found

    def step(
        self, prompts: Sequence[tuple[int, Prompt]], needs: frozenset[Need], how: Sampling, demos: int, step: int
    ) -> list[Response]:
        """What the method needs of a step: each prompt's rollouts, then its demonstrations."""
        shown: list[tuple[int, Prompt]] = []
        ways: dict[tuple[int, int], list[tuple[int, Prompt]]] = defaultdict(list)
        for slot, prompt in prompts:
            plain, asked = self.ask(prompt, how.n, step, slot) if "rollouts" in needs else (prompt, [])
            shown.append((slot, plain))
            for k, (variant, n) in enumerate(asked):
                ways[k, n].append((slot, variant))
        found = []
        for (k, n), chosen in ways.items():
            found += self.rollouts(chosen, replace(how, n=n), f"step {step}" + (f", way {k}" if k else ""))
        found += self.demonstrations(shown, demos) if "demonstrations" in needs else []
        return sorted(found, key=lambda r: (r.slot, r.is_demo))

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def table(
    responses: Sequence[Response], limit: int, number: int, gather: Callable[[list], list]
) -> tuple[Responses, list[Pair]]:
    """The table of the step's responses over all ranks, in the order of slots, and this rank's own pairs."""
    mine = [(r.slot, k, r.grade.reward, r.is_demo, len(r.token_ids)) for k, r in enumerate(responses)]
    everyone = sorted(gather(mine))
    rows = {(slot, k): row for row, (slot, k, *_) in enumerate(everyone)}
    slots, _, rewards, demos, lengths = zip(*everyone, strict=True) if everyone else ((),) * 5
    step = Responses(
        reward=torch.tensor(rewards, dtype=torch.float32),
        group=torch.tensor(slots, dtype=torch.long),
        is_demo=torch.tensor(demos, dtype=torch.bool),
        length=torch.tensor(lengths, dtype=torch.long),
        limit=limit,
        step=number,
    )
    return step, [Pair(r.prompt.ids, r.token_ids, rows[r.slot, k]) for k, r in enumerate(responses)]
