"""Runs that are killed and resumed until they finish, and compared with runs that were not: kills.py FOLDER.

Reads drills from standard input, a JSON object a line, and answers each with one: see `drill`. A process
that has imported everything forks one that trains, so that a run costs a second. Of the kills a third come at a random
time, a third as the run is about to change a random file of its own, a third in the middle of writing one.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import random
import re
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from srft import train
from srft.recipe.schema import Recipe
from srft.run.sizing.hardware import measured_rates
from srft.training.display import Display
from tests.drills.cases import grade, recipe_of
from tests.drills.compare import differences, files
from tests.training import sharded_runs

FOLDERS = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 2}  # where these audit events have their dir_fd
LIMIT = 120.0  # seconds for a run


@dataclass(frozen=True)
class Kill:
    """When a process is killed.

    Args:
        seconds: after its start, by its parent; or
        change: by itself, before it changes a file of the run for the so-manieth time;
        torn: and half a row is left in that file.
    """

    seconds: float = LIMIT
    change: int = 0
    torn: bool = False


@dataclass(frozen=True)
class Attempt:
    """What came of a process.

    Args:
        status: of waitpid.
        seconds: that it lived.
        changes: of files of the run.
        moment: the phase that it was in, or the change before which it was killed.
    """

    status: int
    seconds: float
    changes: int
    moment: str

    @property
    def killed(self) -> bool:
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL


class Board:
    """Memory that a process shares with its parent."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 4096)
        self.write(0, "starting")

    def write(self, changes: int, moment: str) -> None:
        line = f"{changes} {moment}".encode()[:4000]
        self.memory[: len(line) + 1] = line + b"\0"

    def read(self) -> tuple[int, str]:
        changes, _, moment = self.memory[:].partition(b"\0")[0].decode().partition(" ")
        return int(changes), moment


def attempt(recipe: Recipe, out: Path, kill: Kill) -> Attempt:
    """Train in a process of its own, resumed where `out` holds a run, until it ends or is killed."""
    board, began = Board(), time.monotonic()
    child = os.fork()
    if child == 0:
        _train(recipe, out, kill, board)
    watched = os.pidfd_open(child)
    select.select([watched], [], [], kill.seconds)
    os.close(watched)
    seconds = time.monotonic() - began
    done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    return Attempt(status, seconds, *board.read())


def _train(recipe: Recipe, out: Path, kill: Kill, board: Board) -> NoReturn:
    os.dup2(os.open(_log(out), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(2, 1)
    _watch(out, kill, board)
    status = 1
    try:
        status = not train(recipe, out, resume=(out / "recipe.yaml").exists(), rewards=[grade]).finished
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _watch(out: Path, kill: Kill, board: Board) -> None:
    """Write every phase and every change of a file on the board, and end the process where it is to be killed."""
    changes, phase, begin, ended = 0, "starting", Display.begin, False

    def note_phase(display: Display, name: str, *rest: Any) -> None:
        nonlocal phase
        phase = name
        board.write(changes, phase)
        begin(display, name, *rest)

    def note_change(event: str, arguments: tuple) -> None:
        nonlocal changes, ended
        path = None if ended else _changed(event, arguments)
        if path is None or not path.is_relative_to(out):
            return
        changes += 1
        name = re.sub(r"\d+", "N", str(path.relative_to(out)))
        board.write(changes, phase)
        if changes == kill.change:
            ended = True
            torn = kill.torn and event == "open"
            board.write(changes, f"{phase}: {event.removeprefix('os.')} {name}{', torn' * torn}")
            if torn:
                os.write(os.open(path, arguments[2]), b'{"step": 2, "stage": 1, "los')
            os.kill(os.getpid(), signal.SIGKILL)

    Display.begin = note_phase
    sys.addaudithook(note_change)


def _changed(event: str, arguments: tuple) -> Path | None:
    """The path that an audit event is about to change, None where it changes none."""
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(path, str | os.PathLike) and flags & (os.O_WRONLY | os.O_RDWR)
        return Path(path) if writes else None
    if event not in FOLDERS:
        return None
    folder = arguments[FOLDERS[event]]
    path = (Path(f"/proc/self/fd/{folder}").readlink() if folder >= 0 else Path()) / arguments[0]
    return None if event == "os.mkdir" and path.exists() else path


def drill(
    folder: Path, case: str, kills: int = 0, seed: int = 0, change: int = 0, torn: bool = False
) -> dict[str, Any]:
    """What became of a case: `moments` of its kills, and the `differences` of its files from those of a run that was
    not killed.

    Args:
        kills: at random; or
        change, torn: one, as `Kill` has it.
    """
    recipe, here = recipe_of(case, folder), folder / case.replace(" ", "-")
    whole = _whole(folder, case)
    result: dict[str, Any] = {"case": case, "seed": seed, "changes": whole.changes, "moments": [], "processes": 0}
    shutil.rmtree(here / "parts", ignore_errors=True)
    at_random = planned(kills, whole, random.Random(f"{case} {seed}"))
    for kill in [Kill(change=change, torn=torn), Kill()] if change else at_random:
        last = attempt(recipe, here / "parts", kill)
        result["processes"] += 1
        if not last.killed:
            break
        result["moments"].append(last.moment)
    wrong = [_end_of(here / "parts", last)] if last.status else differences(here / "whole", here / "parts")
    kept = [here / "whole" / name for name in files(here / "whole")]
    return result | {"files": len(kept), "bytes": sum(file.stat().st_size for file in kept), "differences": wrong}


@cache
def _whole(folder: Path, case: str) -> Attempt:
    """The run that is not killed."""
    out = folder / case.replace(" ", "-") / "whole"
    out.parent.mkdir()
    whole = attempt(recipe_of(case, folder), out, Kill())
    if whole.status:
        raise RuntimeError(_end_of(out, whole))
    return whole


def planned(kills: int, whole: Attempt, draw: random.Random) -> Iterator[Kill]:
    """Kills at random places along the run, each counted from the one before, and one process that is not killed."""
    places = sorted(draw.random() for _ in range(kills))
    kinds = draw.sample(range(3), 3)
    for i, (before, place) in enumerate(zip([0.0, *places], places, strict=False)):
        share, kind = place - before, kinds[i % 3]
        change = 1 + round(share * whole.changes)
        yield Kill(seconds=share * whole.seconds) if kind == 0 else Kill(change=change, torn=kind == 1)
    yield Kill()


def _end_of(out: Path, last: Attempt) -> str:
    """Why a process ended as it should not."""
    log = _log(out).read_text(errors="replace").strip().splitlines()[-12:]
    return "\n".join([f"status {last.status} after {last.seconds:.0f} s, {last.moment}", *log])


def _log(out: Path) -> Path:
    return out.with_suffix(".log")


def main(folder: Path) -> None:
    """Serve cases until standard input closes."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sharded_runs.make_model(folder)
    measured_rates()  # of the machine, once for all runs
    gc.freeze()  # a run collects garbage at its end, and what the imports made is none
    for line in sys.stdin:
        print(json.dumps(drill(folder, **json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
