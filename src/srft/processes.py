"""What several processes do together, and how they end together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.distributed.tensor import DTensor

from srft.errors import SrftError

TIMEOUT = timedelta(hours=1)  # for which one process waits for another that lives, before the run ends
_runs = count()  # of this process; those of a launch make the same runs in the same order


@contextmanager
def ending_together() -> Iterator[None]:
    """What ends one process is told to the others, who would know of a broken connection alone.

    Raises:
        SrftError: for a broken connection: why the process failed that failed first.
    """
    key = f"srft/failure/{next(_runs)}"
    try:
        yield
    except BaseException as error:
        if not torch.distributed.is_initialized():
            raise
        if _is_broken_connection(error):
            raise _reason(key, error) from error
        with suppress(torch.distributed.DistError):
            told = f"process {torch.distributed.get_rank()} failed: {_told(error)}"
            _get_default_store().compare_set(key, "", told)  # which keeps the first one's
        if torch.distributed.is_torchelastic_launched():
            get_error_handler().record_exception(error)  # for the launcher's table
        raise


def first(accelerator: Accelerator | PartialState, act: Callable[[], object]) -> None:
    """Let the first process act. When it fails all raise, the others with its reason, rather than wait for it for
    ever."""
    raised: BaseException | None = None
    if accelerator.is_main_process:
        try:
            act()
        except BaseException as error:
            raised = error
    (failure,) = broadcast_object_list([_as_srft_error(raised)])
    if raised is not None:
        raise raised
    if failure is not None:
        raise failure


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


def _as_srft_error(error: BaseException | None) -> SrftError | None:
    """The same for another process: an exception of any kind need not survive the way there."""
    if isinstance(error, SrftError):
        return SrftError(error.what, where=error.where, fix=error.fix)
    return None if error is None else SrftError(f"the first process failed: {_told(error)}")


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, SrftError) else f"{type(error).__name__}: {error}"


def _is_broken_connection(error: BaseException) -> bool:
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _reason(key: str, error: BaseException) -> SrftError:
    with suppress(torch.distributed.DistError):
        if (store := _get_default_store()).check([key]):
            return SrftError(store.get(key).decode())
    return SrftError(
        f"another process of the run ended without a word, or did not answer: {str(error).partition(chr(10))[0]}",
        fix="The launcher's table says which (SIGKILL: often its machine had no memory left). Continue with --resume.",
    )
