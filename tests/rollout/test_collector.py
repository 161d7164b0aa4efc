"""Graded responses: what they are scored under, and what of them is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from srft.data.problem import Problem
from srft.data.template import TEMPLATES
from srft.data.tokenize import Prompt, tokenize_problems
from srft.policy.forward import Policy
from srft.rollout.collector import Collector
from srft.rollout.prompting import Prompting, PromptingContext
from srft.rollout.response import Group
from srft.rollout.sampler import SamplingParams
from srft.rollout.samplers.transformers import TransformersSampler
from srft.verify.grade import Grade, Verdict

LIMITS = {"max_prompt_length": 200, "max_response_length": 100}


def prompts_of(problems: Sequence[Problem], tokenizer: Any) -> list[Prompt]:
    return tokenize_problems(problems, tokenizer, template=TEMPLATES["chat"], **LIMITS).prompts


def collector_of(model: Any, tokenizer: Any, grade: Any) -> Collector:
    sampler = TransformersSampler(Policy(model).model, 0, {tokenizer.eos_token_id})
    context = PromptingContext([], tokenizer, TEMPLATES["chat"], **LIMITS, steps=1, seed=0)
    return Collector(sampler, grade, tokenizer, seed=0, prompting=Prompting(None, context))


def by_metadata(items: Sequence[tuple[Problem, str]]) -> list[Grade]:
    """Right where the problem's metadata say so."""
    return [Grade(Verdict.RIGHT, 1.0) if p.metadata["right"] else Grade(Verdict.WRONG, 0.0) for p, _ in items]


def test_rollouts_have_the_samplings_temperature_and_demonstrations_have_1(model: Any, tokenizer: Any) -> None:
    problem = Problem("Add 2 to 3.", "5", ("It is \\boxed{5}.",), metadata={"right": True})
    collector = collector_of(model, tokenizer, by_metadata)
    params = SamplingParams(n=2, temperature=0.5, max_response_length=4)
    needs = frozenset({"rollouts", "demonstrations"})
    groups = [Group(0, prompt) for prompt in prompts_of([problem], tokenizer)]
    responses = collector.collect(groups, needs, params, demonstrations=1, step=1)
    assert [(r.is_demo, r.temperature) for r in responses] == [(False, 0.5), (False, 0.5), (True, 1.0)]
    rollout, demo = responses[0].model_input(0), responses[2].model_input(1)
    assert (rollout.temperature, demo.temperature) == (0.5, 1.0)
    assert len(rollout.sampler_logprobs or ()) == len(rollout.response_ids)
    assert demo.sampler_logprobs is None


@pytest.mark.parametrize("first", [True, False])
def test_a_demonstrations_grade_is_its_problems_own(model: Any, tokenizer: Any, first: bool) -> None:
    """Two problems of one answer and one demonstration that other metadata grade otherwise."""
    same = ("Add 2 to 3.", "5", ("It is \\boxed{5}.",))
    problems = [Problem(*same, metadata={"right": right}) for right in (first, not first)]
    collector = collector_of(model, tokenizer, by_metadata)
    groups = [Group(i, prompt) for i, prompt in enumerate(prompts_of(problems, tokenizer))]
    for _ in range(2):  # the second time from what was kept
        rewards = [r.reward for r in collector.demonstrations(groups, 1)]
        assert rewards == [float(first), float(not first)]
