"""The linear head's closed-form gradients against finite differences and against autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from srft.policy import head
from srft.policy.head import linear_head

TARGETS = torch.tensor([3, 0, 6, 6, 1])
TEMPERATURE = torch.tensor([1.0, 0.6, 1.7, 1.0, 1.0], dtype=torch.float64)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 4, generator=generator, dtype=dtype) for n in (5, 7))
    return hidden.requires_grad_(), weight.requires_grad_()


def plainly(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    logp = ((hidden @ weight.T).float() / TEMPERATURE[:, None].float()).log_softmax(-1)
    return logp.gather(-1, TARGETS[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("of", ["logp", "entropy", "both"])
@pytest.mark.parametrize("elements", [14, 2**24], ids=["chunks of two", "one chunk"])
def test_gradients_are_finite_differences(of: str, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", elements)

    def function(hidden: Tensor, weight: Tensor) -> Tensor:
        logp, entropy = linear_head(hidden, weight, TARGETS, TEMPERATURE)
        return {"logp": logp, "entropy": entropy, "both": logp * entropy}[of]

    assert torch.autograd.gradcheck(function, inputs())


def test_under_autocast_it_is_autograds_of_the_same_precision() -> None:
    (hidden, weight), (other, same) = inputs(torch.float32), inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = linear_head(hidden, weight, TARGETS, TEMPERATURE), plainly(other, same)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    sum(x.sum() for x in ours).backward()
    sum(x.sum() for x in theirs).backward()
    torch.testing.assert_close(hidden.grad, other.grad, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(weight.grad, same.grad, rtol=2e-2, atol=2e-2)
    assert weight.grad.dtype == torch.float32


def test_a_frozen_head_has_no_gradient() -> None:
    hidden, weight = inputs()
    logp, _ = linear_head(hidden, weight.detach(), TARGETS, TEMPERATURE)
    logp.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
