"""Entropy, branching factor and log-probs of sampled tokens against the whole distribution written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from srft.data import Problem, Prompt
from srft.evaluation.respond import Responder, branching_factor
from srft.policy import Policy
from srft.rollout import Sample


def test_statistics_are_those_of_the_models_own_logits(model: Any, tokenizer: Any) -> None:
    model.eval()
    items = [
        (Prompt(Problem("p"), tuple(range(5, 5 + k)), "", (), ()), Sample(list(range(20, 20 + 3 * k)), [], True))
        for k in (2, 5)
    ]
    responder = Responder(None, None, tokenizer, Policy(model), tokenizer.eos_token_id)  # type: ignore[arg-type]
    for (prompt, sample), ours in zip(items, responder._look(items), strict=True):
        ids = torch.tensor([[*prompt.ids, *sample.token_ids]])
        with torch.no_grad():
            probs = model(ids).logits[0].softmax(-1)[len(prompt.ids) - 1 : -1]
        ordered = probs.sort(-1, descending=True).values.cumsum(-1)
        picked = probs.gather(-1, torch.tensor(sample.token_ids)[:, None])
        assert ours["logp"] == pytest.approx(float(picked.log().mean()), rel=1e-3)
        assert ours["entropy"] == pytest.approx(float(-(probs * probs.log()).sum(-1).mean()), rel=1e-3)
        assert ours["rbf"] == pytest.approx(float(((ordered < 0.95).sum(-1) + 1.0).mean()), rel=1e-3)


@pytest.mark.parametrize("size", [3, 40, 5000])
def test_the_smallest_set_of_any_distribution(size: int) -> None:
    torch.manual_seed(0)
    probs = torch.cat([torch.randn(6, size).softmax(-1), (8 * torch.randn(6, size)).softmax(-1)])
    expected = (probs.sort(-1, descending=True).values.cumsum(-1) < 0.95).sum(-1) + 1
    assert (branching_factor(probs.log()).long() - expected).abs().max() <= 1  # the order of a sum of floats
