"""One process at a time in a folder, by a lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from srft.errors import SrftError

_held: set[int] = set()  # descriptors of this process's locks


class Lock:
    """An exclusive lock (flock) on a file in a folder. The file stays when the lock is given back, and means nothing.

    Args:
        file: made where it is missing, with its folder.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """By this object; not where the file system has no locks."""
        return self._descriptor is not None

    def take(self) -> None:
        """Take it, or do nothing where this object holds it already, or the file system has no locks.

        Raises:
            SrftError: another process holds it, or the folder cannot be written to.
        """
        if self.is_held:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)  # closed where a child executes a program
        except OSError as error:
            raise SrftError(
                f"cannot write there: {error}", where=str(self.file.parent), fix="Name another --out."
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise self._refusal() from None
            return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{_this_process()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n".encode(), 0)
        _held.add(descriptor)
        self._descriptor = descriptor

    def close(self) -> None:
        """Give it back; nothing where it is not held."""
        if self._descriptor is not None:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _refusal(self) -> SrftError:
        holder = ""
        with suppress(OSError):
            holder = self.file.read_text(encoding="utf-8", errors="replace").strip()
        return SrftError(
            f"another process writes there: {holder or 'one that has just begun'}",
            where=str(self.file.parent),
            fix="Wait until it has ended, or end it (Ctrl-C there, or kill with its number), or name another --out.",
        )


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _forget_locks() -> None:
    """A forked child shares its parent's locks for as long as it has their descriptors."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_locks)
