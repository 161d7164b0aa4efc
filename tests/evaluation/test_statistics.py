"""Entropy, branching factor and log-probs of sampled tokens against the whole distribution written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from srft.data.problem import Problem
from srft.data.tokenize import Prompt
from srft.evaluation.token_statistics import measure
from srft.objective.vocabulary import branching_factor
from srft.policy.forward import Policy
from srft.rollout.response import Response
from srft.verify.verifier import Verdict


def response(prompt: range, token_ids: range) -> Response:
    """Sampled at a temperature that its statistics do not see."""
    return Response(
        0, Prompt(Problem("p"), tuple(prompt)), list(token_ids), False, True, "", 0.0, Verdict.WRONG, temperature=0.6
    )


def test_statistics_are_those_of_the_models_own_logits(model: Any, tokenizer: Any) -> None:
    responses = [response(range(5, 5 + k), range(20, 20 + 3 * k)) for k in (2, 5)]
    policy = Policy(model).train()
    measured = measure(policy, responses, tokenizer.eos_token_id)
    assert policy.training
    model.eval()
    for one, ours in zip(responses, measured, strict=True):
        ids = torch.tensor([[*one.prompt.token_ids, *one.token_ids]])
        with torch.no_grad():
            probs = model(ids).logits[0].softmax(-1)[len(one.prompt.token_ids) - 1 : -1]
        ordered = probs.sort(-1, descending=True).values.cumsum(-1)
        picked = probs.gather(-1, torch.tensor(one.token_ids)[:, None])
        assert ours.logp == pytest.approx(float(picked.log().mean()), rel=1e-3)
        assert ours.entropy == pytest.approx(float(-(probs * probs.log()).sum(-1).mean()), rel=1e-3)
        assert ours.rbf == pytest.approx(float(((ordered < 0.95).sum(-1) + 1.0).mean()), rel=1e-3)


def test_an_empty_response_has_no_tokens_to_measure(model: Any, tokenizer: Any) -> None:
    empty, other = measure(Policy(model), [response(range(3), range(0)), response(range(3), range(4))], 0)
    assert (empty.entropy, empty.rbf, empty.logp) == (0, 0, 0)
    assert other.logp < 0


@pytest.mark.parametrize("size", [3, 40, 5000])
def test_the_smallest_set_of_any_distribution(size: int) -> None:
    torch.manual_seed(0)
    probs = torch.cat([torch.randn(6, size).softmax(-1), (8 * torch.randn(6, size)).softmax(-1)])
    expected = (probs.sort(-1, descending=True).values.cumsum(-1) < 0.95).sum(-1) + 1
    assert (branching_factor(probs.log()).long() - expected).abs().max() <= 1  # the order of a sum of floats
