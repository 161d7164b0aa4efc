"""Ctrl-C and SIGTERM end a run after its present step."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interruption:
    """Whether a signal has asked the run to stop."""

    requested = False


@contextmanager
def stop_on_signals(announce: bool) -> Iterator[Interruption]:
    """The first Ctrl-C (or SIGTERM) sets `requested`; a second one raises KeyboardInterrupt at once.

    Args:
        announce: say so on standard error.
    """
    interruption = Interruption()

    def note(signum: int, frame: Any) -> None:
        if interruption.requested:
            raise KeyboardInterrupt
        interruption.requested = True
        if announce:  # not by Rich: the signal may have come in the middle of its writing
            os.write(2, b"\nFinishing this step, then saving. Once more to stop without saving.\n")

    try:
        previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, where Python handles no signals
        previous = {}
    try:
        yield interruption
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
