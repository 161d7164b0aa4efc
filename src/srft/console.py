"""The console that everything is shown on: what it is given is text, never markup or instructions to the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from srft.safe_text import printable


class SafeConsole(Console):
    """Rich's console. Styles are given by `style` and `Text`; `[bold]` in a string stands as it is written, and a
    character that would steer the terminal as a visible one (`srft.safe_text.printable`)."""

    def render_str(self, text: str, **options: Any) -> Text:
        """As Rich's, of printable text without markup."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As Rich's, with printable text in its segments; Rich's own control codes stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def safe_console(console: Console) -> SafeConsole:
    """A user's console as a safe one, on the same file and record; the user's own stays as it is."""
    if isinstance(console, SafeConsole):
        return console
    safe = SafeConsole.__new__(SafeConsole)
    safe.__dict__ = {**console.__dict__}
    return safe
