"""From prompts to graded responses: the policy's rollouts, and the expert's demonstrations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from srft.data.problem import Problem
from srft.objective.registry import Need
from srft.rollout.prompting import Prompting
from srft.rollout.response import Group, Response
from srft.rollout.sampler import Sampler, SampleRequest, SamplingParams
from srft.seed import derive_seed
from srft.verify.grade import Grade

GradeFunction = Callable[[Sequence[tuple[Problem, str]]], list[Grade]]


class AccuracyFunction(Protocol):
    """Grades of an evaluation; `extract` says which answer counts."""

    def __call__(self, items: Sequence[tuple[Problem, str]], extract: str) -> list[Grade]: ...


class Collector:
    """Samples and grades. Keeps the demonstrations' grades, which never change.

    Args:
        grade: problems with response texts to grades, in order: `Verifier.grade`.
        seed: the run's.
        prompting: what a group is asked in a training step; the prompt as it is if left out.
        accuracy: grades in an evaluation, given which answer counts as well: `Verifier.accuracy`; `grade` if left out.
    """

    def __init__(
        self,
        sampler: Sampler,
        grade: GradeFunction,
        tokenizer: Any,
        seed: int,
        prompting: Prompting | None = None,
        accuracy: AccuracyFunction | None = None,
    ) -> None:
        self.sampler, self.grade, self.tokenizer, self.seed = sampler, grade, tokenizer, seed
        self.prompting = prompting or Prompting()
        self.accuracy: AccuracyFunction = accuracy or (lambda items, extract: grade(items))
        self._demo_grades: dict[tuple[int, str], tuple[Problem, Grade]] = {}

    def collect(
        self,
        groups: Sequence[Group],
        needs: frozenset[Need],
        params: SamplingParams,
        demonstrations: int,
        step: int,
        stage_step: int | None = None,
    ) -> list[Response]:
        """What the method needs of a step: each group's rollouts, then its demonstrations.

        Args:
            params: `n` rollouts of each group.
            demonstrations: of each group, at most.
            step: the step's number in the run, which seeds the draws.
            stage_step: its number in the stage, which prompting goes by; the same if left out.
        """
        asked_groups: list[Group] = []
        variants: dict[tuple[int, int], list[Group]] = defaultdict(list)
        for group in groups:
            if "rollouts" not in needs:
                asked_groups.append(group)
                continue
            asked = self.prompting.ask(group.prompt, params.n, stage_step or step, group.group_id)
            asked_groups.append(replace(group, prompt=asked.prompt))
            for k, variant in enumerate(asked.variants):
                variants[k, variant.n].append(replace(group, prompt=variant.prompt))
        responses = []
        for (k, n), chosen in variants.items():
            purpose = f"step {step}" + (f", way {k}" if k else "")  # seeds of earlier runs stay what they were
            responses += self.sample(chosen, params.model_copy(update={"n": n}), purpose)
        if "demonstrations" in needs:
            responses += self.demonstrations(asked_groups, demonstrations)
        return sorted(responses, key=lambda r: (r.group_id, r.is_demo))

    def sample(
        self,
        groups: Sequence[Group],
        params: SamplingParams,
        purpose: str,
        grade: GradeFunction | None = None,
    ) -> list[Response]:
        """`params.n` graded rollouts of each group, in order.

        Args:
            purpose: the step, or the evaluation; it seeds the draws together with the group's id.
            grade: in place of the collector's own.
        """
        requests = [SampleRequest(g.prompt.token_ids, derive_seed(self.seed, purpose, g.group_id)) for g in groups]
        sampled = self.sampler.sample(requests, params)
        drawn = [(group, one) for group, samples in zip(groups, sampled, strict=True) for one in samples]
        texts = [self._decode(one.token_ids) for _, one in drawn]
        grades = (grade or self.grade)(
            [(g.prompt.problem, g.prompt.opening + text) for (g, _), text in zip(drawn, texts, strict=True)]
        )
        return [
            Response(
                group.group_id,
                group.prompt,
                one.token_ids,
                is_demo=False,
                truncated=one.truncated,
                text=text,
                reward=graded.reward,
                verdict=graded.verdict,
                temperature=params.temperature or 1.0,
                sampler_logprobs=one.logprobs,
                details=graded.details,
                rewards=graded.rewards,
            )
            for (group, one), text, graded in zip(drawn, texts, grades, strict=True)
        ]

    def demonstrations(self, groups: Sequence[Group], per_group: int) -> list[Response]:
        """The first `per_group` demonstrations of each group, graded like any other response."""
        shown = [
            (group, one, self._decode(one.token_ids))
            for group in groups
            for one in group.prompt.demonstrations[:per_group]
        ]
        grades = self._demo_grades_of([(group.prompt.problem, group.prompt.opening + text) for group, _, text in shown])
        return [
            Response(
                group.group_id,
                group.prompt,
                one.token_ids,
                is_demo=True,
                truncated=one.truncated,
                text=text,
                reward=graded.reward,
                verdict=graded.verdict,
                rewards=graded.rewards,
            )
            for (group, one, text), graded in zip(shown, grades, strict=True)
        ]

    def _demo_grades_of(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """The grades of problems with their demonstrations' texts; what is not known yet is graded together."""
        keys = [(id(problem), text) for problem, text in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._demo_grades}
        grades = self.grade(list(new.values())) if new else []
        for key, graded in zip(new, grades, strict=True):
            self._demo_grades[key] = (new[key][0], graded)  # with the problem, so that its id stays its own
        return [self._demo_grades[key][1] for key in keys]

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)
