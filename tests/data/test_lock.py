"""The lock of a folder: one at a time, named, and gone with its process."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from srft import SrftError
from srft.data.lock import Lock
from tests.helpers import ROOT

HOLDER = (
    "import subprocess, sys, time; from pathlib import Path; from srft.data.lock import Lock\n"
    "lock = Lock(Path(sys.argv[1])); lock.take()\n"
    "worker = subprocess.Popen(['sleep', '600']); print(worker.pid, flush=True); time.sleep(600)\n"
)


def test_one_at_a_time_and_the_other_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run/run.lock"
    one, other = Lock(file), Lock(file)
    one.take()
    one.take()
    with pytest.raises(SrftError, match=f"process {os.getpid()} on {socket.gethostname()}, since 20") as error:
        other.take()
    assert error.value.where == str(tmp_path / "run")
    assert (one.is_held, other.is_held) == (True, False)
    one.close()
    other.take()
    assert other.is_held
    other.close()


def test_it_ends_with_its_process_and_not_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "run.lock"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, "-c", HOLDER, str(file)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        worker = int(holder.stdout.readline())
        with pytest.raises(SrftError, match=f"process {holder.pid} on"):
            Lock(file).take()
        holder.kill()
        holder.wait()
        lock = Lock(file)
        lock.take()  # while the worker lives
        os.kill(worker, signal.SIGKILL)
        assert lock.is_held
        lock.close()


def test_a_forked_child_does_not_hold_it(tmp_path: Path) -> None:
    lock, (reads, writes), (begun, begins) = Lock(tmp_path / "run.lock"), os.pipe(), os.pipe()
    lock.take()
    child = os.fork()
    if child == 0:  # waits until the parent is done
        os.close(writes)
        os.write(begins, b".")
        os.read(reads, 1)
        os._exit(0)
    os.close(reads)
    os.read(begun, 1)
    lock.close()
    try:
        again = Lock(tmp_path / "run.lock")
        again.take()
        assert again.is_held
        again.close()
    finally:
        for descriptor in (writes, begun, begins):
            os.close(descriptor)
        os.waitpid(child, 0)


def test_a_file_system_without_locks_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, operation: int) -> Any:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    lock = Lock(tmp_path / "run.lock")
    lock.take()
    assert not lock.is_held


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SrftError, match="cannot write there"):
        Lock(tmp_path / "file/run.lock").take()
