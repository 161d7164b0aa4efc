"""Entropy, branching factor and log-probs of sampled tokens against the whole distribution written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from srft.policy import Pair, Policy, cut, token_statistics
from srft.policy.forward import _smallest_set


def test_statistics_are_those_of_the_models_own_logits(model: Any, tokenizer: Any) -> None:
    model.eval()
    pairs = [Pair(list(range(5, 5 + k)), list(range(20, 20 + 3 * k)), row) for row, k in enumerate((2, 5))]
    (batch,) = cut(pairs, 10_000, tokenizer.eos_token_id)
    logp, entropy, branching = token_statistics(Policy(model), batch)
    expected = []
    for row in batch.row.unique_consecutive().tolist():
        pair = pairs[row]
        ids = torch.tensor([[*pair.prompt, *pair.response]])
        with torch.no_grad():
            probs = model(ids).logits[0].softmax(-1)
        for place, token in enumerate(pair.response, len(pair.prompt) - 1):
            p = probs[place]
            ordered = p.sort(descending=True).values.cumsum(0)
            expected.append((p[token].log(), -(p * p.log()).sum(), (ordered < 0.95).sum() + 1))
    for ours, theirs in zip((logp, entropy, branching), zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(theirs).float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [3, 40, 5000])
def test_the_smallest_set_of_any_distribution(size: int) -> None:
    torch.manual_seed(0)
    probs = torch.cat([torch.randn(6, size).softmax(-1), (8 * torch.randn(6, size)).softmax(-1)])
    expected = (probs.sort(-1, descending=True).values.cumsum(-1) < 0.95).sum(-1) + 1
    assert (_smallest_set(probs, 0.95).long() - expected).abs().max() <= 1  # the order of a sum of floats
