"""What a run does when the disk is full: end with its last checkpoint whole, or wait for room."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from srft.errors import SrftError

DiskFull = Literal["stop", "wait"]
FULL = ("No space left on device", "Disk quota exceeded")  # in the words of Python, Rust, Ray and PyTorch alike
WAIT = 10.0  # seconds between two attempts

T = TypeVar("T")


class Disk:
    """Writes to a run directory, which every process takes part in.

    Args:
        path: the run directory.
        when_full: "stop" ends the run, "wait" tries again until there is room.
        say: is told of a wait.
        ending: whether the run is to end, on every process the same.
    """

    def __init__(
        self, path: Path, when_full: DiskFull, *, say: Callable[[str], None], ending: Callable[[], bool]
    ) -> None:
        self.path, self.when_full, self.say, self.ending = path, when_full, say, ending

    def write(self, what: str, act: Callable[[], T], size: int = 0) -> T:
        """The value of `act`, which writes `what` and may be repeated where it failed.

        Args:
            size: bytes that it takes, where that is known.

        Raises:
            SrftError: the disk is full, and that is not waited for, or the run is to end; it cannot be written.
        """
        is_told = False
        while True:
            try:
                return act()
            except BaseException as error:  # PyTorch's of a checkpoint is no Exception
                if not any(words in str(error) for words in FULL):
                    if isinstance(error, OSError):
                        raise self._failure(f"{what} cannot be written: {error}") from error
                    raise
                takes = f"takes about {gib(size)}" if size else "does not fit"
                full = f"the disk is full: {what} {takes}, {gib(shutil.disk_usage(self.path).free)} are free"
                if self.when_full == "stop" or self.ending():
                    raise self._failure(full) from error
                if not is_told:
                    self.say(f"{self.path}: {full}. Waiting for room (training.disk_full: wait).")
                    is_told = True
            time.sleep(WAIT)

    def _failure(self, what: str) -> SrftError:
        fix = "Make room, then continue from the last checkpoint with --resume."
        fix += " With training.disk_full=wait a run waits for it." if self.when_full == "stop" else ""
        return SrftError(what, where=str(self.path), fix=fix)


def gib(size: float) -> str:
    """Bytes for a reader."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"
