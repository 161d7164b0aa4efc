"""Whether weights are numbers: NaN and infinity are found before a model is trained, and before it is saved."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from srft.errors import SrftError


@torch.no_grad()
def non_finite(network: nn.Module) -> list[str]:
    """Names of the network's weights that hold NaN or infinity, of a sharded network in this process's shards. Reads
    each weight once, and waits for the device once."""
    named = {
        name: p.to_local() if isinstance(p, DTensor) else p
        for name, p in network.named_parameters()
        if p.is_floating_point() and not p.is_meta
    }
    if not named:
        return []
    sums = torch.stack([p.sum(dtype=torch.float32) for p in named.values()])
    suspect = [name for name, is_finite in zip(named, sums.isfinite().tolist(), strict=True) if not is_finite]
    return [name for name in suspect if not named[name].isfinite().all()]  # the sum of finite weights may overflow


def check_finite(names: list[str], where: str, fix: str) -> None:
    """Raises SrftError where weights of these `names` hold NaN or infinity."""
    if names:
        more = f" and {len(names) - 1} others" if len(names) > 1 else ""
        raise SrftError(f"the weights {names[0]}{more} hold NaN or infinity", where=where, fix=fix)
