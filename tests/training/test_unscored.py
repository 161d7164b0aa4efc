"""Rollouts that no reward applies to: out of the loss and of the group's mean; demonstrations stay."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator

from srft.data import Problem, Prompt
from srft.rollout.response import Group, Response
from srft.training.batches import Batcher
from srft.training.collect import CollectedStep
from srft.verify.grade import Verdict

PROMPT = Prompt(Problem("2 + 3?", "5"), (5, 6))
NONE = {"grader": None, "brevity": None}


def response(reward: float, verdict: Verdict = Verdict.WRONG, **values: Any) -> Response:
    defaults = {"is_demo": False, "truncated": False, "text": "", "verdict": verdict}
    return Response(0, PROMPT, [7, 8], reward=reward, **defaults | values)


def test_they_are_not_learnt_from() -> None:
    responses = [
        response(0.6, Verdict.RIGHT, rewards={"grader": 0.6, "brevity": None}),
        response(0.0, Verdict.UNPARSABLE, rewards=NONE),
        response(0.7),
        response(0.0, is_demo=True, rewards=NONE),
    ]
    batcher = Batcher(Accelerator(cpu=True), max_response_length=4, tokens_per_micro_batch=100, pad_token_id=0)
    (batch,) = batcher.split(responses, step=1, groups=1, updates=1)
    table = batch.responses
    assert [round(x, 3) for x in table.reward.tolist()] == [0.6, 0.7, 0.0]
    assert table.is_right.tolist() == [True, False, False]  # by the verdict
    assert table.is_demo.tolist() == [False, False, True]
    collected = CollectedStep([Group(0, PROMPT)], responses, frozenset({"rollouts"}))
    assert collected.rollouts == [responses[0], responses[2]]
