"""How long the parts of a step take."""

from __future__ import annotations

import time


class Clock:
    """Seconds by part of a step, and of all of it."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The part since the last lap."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self.seconds["step_time"] = now - self._began
        self._last = now
