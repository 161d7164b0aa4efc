"""What several processes do together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.distributed.tensor import DTensor

from srft.errors import SrftError


def first(accelerator: Accelerator | PartialState, act: Callable[[], object]) -> None:
    """Let the first process act; all raise when it fails, rather than wait for it for ever."""
    failure: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            act()
        except SrftError as error:
            failure = [error]
    failure = broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]


def gather(accelerator: Accelerator, objects: list) -> list:
    """The lists of all ranks as one, in the order of ranks."""
    if accelerator.num_processes == 1:
        return objects
    everyone: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(everyone, objects)
    return [item for part in everyone for item in part]


def whole(x: Tensor) -> Tensor:
    """All of a tensor that may be in shards; then every process must ask for it."""
    return x.full_tensor() if isinstance(x, DTensor) else x
