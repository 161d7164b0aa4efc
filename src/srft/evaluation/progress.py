"""How far an evaluation is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich import progress as rich
from rich.console import Console

from srft.console import safe_console

LOG_EVERY = 30.0  # seconds


class Progress:
    """A context manager; silent where `console` is None.

    Args:
        ranks: processes, each doing its share: the bar shows the first one's, times their number.
    """

    def __init__(self, console: Console | None, ranks: int = 1) -> None:
        self.console, self.ranks = safe_console(console) if console else None, ranks
        self._name, self._bar = "", None if self.console is None or not self.console.is_terminal else _bar(self.console)
        self._task: rich.TaskID | None = None
        self._total = self._done = self._tokens = 0
        self._seconds, self._said = 0.0, time.monotonic()

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, name: str, mine: int, problems: int) -> None:
        """A benchmark of `problems`, of which this process has `mine` still to do."""
        self._name, self._total = name, problems
        self._done = max(problems - mine * self.ranks, 0)
        if self._bar:
            self._task = self._bar.add_task(name, total=problems, completed=self._done, speed="")

    def advance(self, problems: int, tokens: int, seconds: float) -> None:
        self._done = min(self._done + problems * self.ranks, self._total)
        self._tokens, self._seconds = self._tokens + tokens * self.ranks, self._seconds + seconds
        speed = f"{self._tokens / max(self._seconds, 1e-9):.0f} tok/s"
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, speed=speed)
        elif self.console and (time.monotonic() - self._said > LOG_EVERY or self._done == self._total):
            self._said = time.monotonic()
            self.console.print(f"{self._name}: {self._done} of {self._total} problems, {speed}", highlight=False)


def _bar(console: Console) -> rich.Progress:
    return rich.Progress(
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[speed]}"),
        console=console,
    )
