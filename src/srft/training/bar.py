"""A bar that shows how far a phase of a step is, on a terminal or in a notebook."""

from __future__ import annotations

import time
from html import escape
from typing import Any, Protocol

from rich import progress as rich
from rich.console import Console

REFRESHES = 4  # a second


class Bar(Protocol):
    def show(self, phase: str, done: int, wanted: int) -> None:
        """So far it is; of 0 wanted nothing is shown."""

    def hide(self) -> None:
        """Take it away until it is shown again."""


def make_bar(console: Console | None) -> Bar | None:
    """The bar for where `console` prints; None in a pipe or a file."""
    if console is None or console.quiet:
        return None
    if in_notebook():
        return NotebookBar()
    return TerminalBar(console) if console.is_terminal else None


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    return Console().is_jupyter


class TerminalBar:
    """Below the lines that the console prints."""

    def __init__(self, console: Console) -> None:
        self._bar = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=REFRESHES,
        )
        self._task = self._bar.add_task("")
        self._phase = ""

    def show(self, phase: str, done: int, wanted: int) -> None:
        """See `Bar.show`."""
        change = self._bar.update if phase == self._phase else self._bar.reset  # which starts its clock anew
        change(self._task, description=phase, completed=done, total=wanted, visible=wanted > 0)
        self._phase = phase
        self._bar.start()

    def hide(self) -> None:
        """See `Bar.hide`."""
        self._bar.stop()


class NotebookBar:
    """Above the lines that a cell prints."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = 0.0

    def show(self, phase: str, done: int, wanted: int) -> None:
        """See `Bar.show`."""
        if time.monotonic() - self._shown > 1 / REFRESHES:
            self._shown = time.monotonic()
            self._display(
                f'<progress value="{done}" max="{wanted}"></progress> {escape(phase)} {done}/{wanted}' * (wanted > 0)
            )

    def hide(self) -> None:
        """See `Bar.hide`."""
        self._display("")

    def _display(self, html: str) -> None:
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(html), display_id=True)
        else:
            self._handle.update(HTML(html))
