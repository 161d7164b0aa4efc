"""Drawing a token, against the distribution itself."""

from __future__ import annotations

import pytest
import torch

from srft.rollout.draw import draw


def test_frequencies_are_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, -torch.inf]]).expand(20000, -1)
    uniform = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    token, logp = draw(logits, uniform, 0.9, 1.0)
    expected = (logits[0] / 0.9).softmax(-1)
    torch.testing.assert_close(torch.bincount(token, minlength=5) / 20000, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(logp.exp(), expected[token])
    kept, _ = draw(logits, uniform, 0.9, 0.7)
    assert set(kept.tolist()) == {1, 2}


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_draws_of_a_large_vocabulary_are_the_inverse_of_its_distribution(top_p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 3001, generator=generator)
    uniform = torch.rand(50, dtype=torch.float64, generator=generator)
    token, logp = draw(logits, uniform, 0.8, top_p)
    prob = (logits.double() / 0.8).softmax(-1)
    torch.testing.assert_close(logp.double(), prob.log().gather(1, token[:, None])[:, 0], atol=1e-5, rtol=0)
    for row in range(50):
        order = prob[row].argsort(descending=True)
        kept = order[: int((prob[row, order].cumsum(0) < top_p).sum()) + 1]
        chosen = torch.zeros(3001, dtype=torch.float64).index_copy(0, kept, prob[row, kept])
        reached = chosen.cumsum(0) / chosen.sum()
        assert int(token[row]) == int((reached <= uniform[row]).sum())


@pytest.mark.parametrize("top_p", [1.0, 0.7, 0.0])
def test_edges_draw_what_has_probability(top_p: float) -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -1.0, -torch.inf]]).expand(2, -1)
    token, logp = draw(logits, torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64), 1.0, top_p)
    assert set(token.tolist()) <= {1, 2, 3}
    assert logp.isfinite().all()
    assert draw(torch.full((1, 5), torch.nan), torch.zeros(1).double(), 1.0, top_p)[1].isnan()  # seen, not out of range
