"""`srft` with a fault on one rank: broken_rank.py FAULT WORDS…. Ctrl-C, no memory or a full disk come so."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any

from srft.cli import main
from srft.policy.forward import Policy
from srft.rollout.samplers.transformers import TransformersSampler

RANK, CALL = 1, 6


def sampler_raises() -> None:
    """On rank 1, at the sixth batch."""
    sample, calls = TransformersSampler.sample, 0

    def fails(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == CALL:
            raise RuntimeError("the sampler is broken")
        return sample(self, *args, **kwargs)

    TransformersSampler.sample = fails


def sampler_dies() -> None:
    """On rank 1, at the sixth batch, without a word."""
    sample, calls = TransformersSampler.sample, 0

    def dies(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == CALL:
            os.kill(os.getpid(), signal.SIGKILL)
        return sample(self, *args, **kwargs)

    TransformersSampler.sample = dies


def saving_fails() -> None:
    """On rank 0, which alone saves the model."""

    def fails(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    Policy.save = fails


FAULTS = {"sampler raises": (1, sampler_raises), "sampler dies": (1, sampler_dies), "saving fails": (0, saving_fails)}

if __name__ == "__main__":
    rank, fault = FAULTS[sys.argv[1]]
    if int(os.environ["RANK"]) == rank:
        fault()
    sys.argv = ["srft", *sys.argv[2:]]
    main()
