"""Ctrl-C, SIGTERM and SIGHUP end a run after its present step."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Interruption:
    """Whether a signal has asked the run to stop."""

    requested = False


@contextmanager
def stop_on_signals(announce: bool) -> Iterator[Interruption]:
    """The first Ctrl-C (or SIGTERM) sets `requested`; a second one raises KeyboardInterrupt at once. SIGHUP, of a
    terminal that is gone, sets `requested` however often it comes (a shell sends it, and the kernel again), unless it
    was ignored before (nohup).

    Args:
        announce: say so on standard error.
    """
    interruption = Interruption()
    asked = False

    def note(signum: int, frame: Any) -> None:
        nonlocal asked
        if signum != signal.SIGHUP:
            if asked:
                raise KeyboardInterrupt
            asked = True
        interruption.requested = True
        if announce:  # not by Rich: the signal may have come in the middle of its writing
            with suppress(OSError):  # the terminal is gone
                os.write(2, b"\nFinishing this step, then saving. Once more to stop without saving.\n")

    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    try:
        previous = {s: signal.signal(s, note) for s in signals}
    except ValueError:  # not the main thread, where Python handles no signals
        previous = {}
    try:
        yield interruption
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
