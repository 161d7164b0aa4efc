"""Drawing a token: by inverse CDF from one uniform number, so that a draw depends on nothing but its own row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from srft.seed import derive_seed

BLOCK = 256  # tokens of the vocabulary whose mass is summed first: a running sum over all of it is the slow part


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """One token a row by inverse CDF, and its log-probability under the whole distribution at this temperature.

    The block of the vocabulary that the uniform number falls into is found first, then the token in it.

    Args:
        logits: (B, V).
        uniform: (B,) in [0, 1), float64.
        temperature: 0 is the most probable token, with its log-probability at temperature 1.
        top_p: the smallest set of tokens whose mass reaches it is drawn from.
    """
    logits = logits.float() / (temperature or 1.0)
    peak, likeliest = logits.max(-1, keepdim=True)
    mass = (logits - peak).exp_()
    blocks = F.pad(mass, (0, -mass.shape[-1] % BLOCK)).view(len(mass), -1, BLOCK)
    total = blocks.sum(-1).double().sum(-1, keepdim=True)
    token = likeliest
    if temperature > 0:
        blocks = _nucleus(blocks, top_p * total) if top_p < 1 else blocks
        drawn = _inverse(blocks, uniform[:, None])
        # Should rounding of the sums lead past the last token of positive mass, the most probable one is taken.
        token = torch.where(blocks.flatten(1).gather(-1, drawn) > 0, drawn, likeliest)
    logp = logits.gather(-1, token) - peak - total.log()
    return token[:, 0], logp[:, 0].float()


def uniforms(seed: int, member: int, count: int) -> Tensor:
    """(count,) numbers in [0, 1), float64, that a request's seed and a response's place in its group alone decide."""
    generator = torch.Generator().manual_seed(derive_seed(seed, member))
    return torch.rand(count, dtype=torch.float64, generator=generator)


def _nucleus(blocks: Tensor, enough: Tensor) -> Tensor:
    """The largest masses that reach enough (B, 1), the others 0."""
    mass, index = blocks.flatten(1).sort(-1, descending=True)
    outside = mass.cumsum(-1, dtype=torch.float64) - mass >= enough
    outside[:, 0] = False
    return torch.zeros_like(mass).scatter_(-1, index, mass.masked_fill_(outside, 0.0)).view_as(blocks)


def _inverse(blocks: Tensor, uniform: Tensor) -> Tensor:
    """The token (B, 1) at a share `uniform` (B, 1) of the mass (B, blocks, BLOCK)."""
    sums = blocks.sum(-1).double()
    block, share = _search(sums, uniform)
    inside = blocks.take_along_dim(block[..., None], 1)[:, 0].double()
    return block * BLOCK + _search(inside, share)[0]


def _search(mass: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The place (B, 1) at that share of the mass (B, K), and the share of the place's own mass before it."""
    reached = mass.cumsum(-1)
    target = share * reached[:, -1:]
    place = torch.searchsorted(reached, target, right=True).clamp(max=mass.shape[-1] - 1)
    own = mass.gather(-1, place)
    return place, ((target - reached.gather(-1, place) + own) / own).clamp(0, 1)
