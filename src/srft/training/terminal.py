"""Standard output that a run outlives."""

from __future__ import annotations

import os
from typing import Any


class LastingFile:
    """A text file to print to. The first write that fails (a closed pipe, a terminal that is gone, a full disk) sends
    all that follows, this process's own writes to the same descriptor too, to nowhere.

    Args:
        file: e.g. `sys.stdout`.
    """

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """As of the file."""
        try:
            self._file.write(text)
        except OSError:
            self._silence()
        return len(text)

    def flush(self) -> None:
        """As of the file."""
        try:
            self._file.flush()
        except OSError:
            self._silence()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _silence(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._file.fileno())
        os.close(nowhere)
