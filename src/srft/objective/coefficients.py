"""A method as per-token weights, for engines that can only train on a weighted log-likelihood: −Σ_t c_t · log π_t with
c_t held fixed has the method's own gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from srft.errors import SrftError
from srft.objective.registry import Method
from srft.objective.tokens import Tokens


def coefficients(method: Method, t: Tokens, options: Mapping[str, Any] = {}) -> Tensor:
    """(N,) c = −∂L/∂log π of each token, detached, L the sum of the method's terms on `t`.

    They hold where they are taken: at the policy that `t.logp` is of. With one update a batch that is the policy that
    sampled, and they can be taken before the update as well as in it. A critic or a reward model learns nothing from
    them: its loss is the method's own term.

    Args:
        t: the tokens of a micro-batch, or of the whole step; what the method needs must be given, as for the method.
        options: of the method.

    Raises:
        SrftError: the loss has a gradient through the entropy or the whole vocabulary too, or is another library's.
    """
    if method.vocabulary or "preferences" in method.needs(options):
        raise _no_weights(method, "is no function of the tokens' log-probs alone")
    logp, entropy = t.logp.detach().requires_grad_(), t.entropy.detach().requires_grad_()
    with torch.enable_grad():
        loss = torch.stack(list(method(replace(t, logp=logp, entropy=entropy), **options).values())).sum()
    by_logp, by_entropy = torch.autograd.grad(loss, (logp, entropy), allow_unused=True)
    if by_entropy is not None:
        raise _no_weights(method, "has a gradient through the entropy")
    return torch.zeros_like(logp) if by_logp is None else -by_logp


def _no_weights(method: Method, why: str) -> SrftError:
    return SrftError(
        f"the loss of '{method.name}' {why}: no weights of tokens stand for it",
        where="coefficients",
        fix="Train on its terms, or choose a method (or options) without them: `srft methods` lists them.",
    )
