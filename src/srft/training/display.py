"""What a user watches: a bar within a step, a line a step, a few completions, the evaluations, what came of it all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, cast

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from srft.console import safe_console
from srft.evaluation.report import Table
from srft.rollout.response import Response
from srft.training.bar import make_bar
from srft.training.scores import score_table
from srft.training.terminal import LastingFile

HEADER_EVERY = 20  # lines
LOG_EVERY = 60.0  # seconds between lines about a long phase, where there is no bar
# Columns of a step's line, from left to right, loss terms in the place of "loss". Where a line has no room for all,
# those with the highest number are left out.
COLUMNS = {
    "step": 0, "reward": 1, "accuracy": 1, "margin": 1, "loss": 2, "entropy": 4, "entropy/demo": 5, "length": 3,
    "tok/s": 6, "left": 0,
}  # fmt: skip


class Display:
    """Prints to a Rich console; silent where `console` is None (every rank but the first), or what it prints to is
    closed. A context manager.

    Args:
        total: steps of the run.
    """

    def __init__(self, console: Console | None, total: int) -> None:
        self.console = safe_console(console) if console else None
        if self.console and not isinstance(self.console.file, LastingFile):
            self.console.file = cast(Any, LastingFile(self.console.file))
        self.total = total
        self._bar = make_bar(self.console)
        self._phase, self._done, self._wanted, self._logged = "", 0, 0, 0.0
        self._stage, self._lines = 0, 0
        self._known: set[str] = set()  # columns of the stage's steps
        self._columns: list[str] = []  # of them those that are shown

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def say(self, text: str) -> None:
        """Print a line."""
        if self.console:
            self.console.print(text, highlight=False, soft_wrap=True)

    def warn(self, name: str, text: str, advice: str) -> None:
        """Print a warning so that it stands out among the steps' lines."""
        if self.console:
            self.console.print(Text(f"Warning: {name}: {text}.", style="bold yellow"), soft_wrap=True)
            self.console.print(Text(f"  {advice}", style="yellow"), soft_wrap=True)

    def begin(self, phase: str, step: int, wanted: int) -> None:
        """A phase of a step of the run begins, in which `advance` counts up to `wanted`; of 0 nothing is shown."""
        self._phase, self._done, self._wanted = f"step {step}/{self.total} {phase}", 0, wanted
        self._logged = time.monotonic()
        if self._bar:
            self._bar.show(self._phase, 0, wanted)

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        self._wanted = max(self._wanted, self._done)  # what a hook draws again was not foreseen
        if self._bar:
            self._bar.show(self._phase, self._done, self._wanted)
        elif time.monotonic() - self._logged > LOG_EVERY:
            self._logged = time.monotonic()
            self.say(f"{self._phase}: {self._done} of {self._wanted}")

    def end(self) -> None:
        """Take the bar away until the next phase begins."""
        if self._bar:
            self._bar.hide()

    def step(self, metrics: Mapping[str, Any]) -> None:
        """One line: what the method has of reward, loss terms, entropies, length, speed, time left."""
        if not self.console:
            return
        cells = _cells(metrics, self.total)
        if metrics["stage"] != self._stage:
            self._stage, self._known = metrics["stage"], set()
        if not cells.keys() <= self._known:  # the first step, or one that is not like those before it
            self._known |= cells.keys()
            self._columns = _fitting(self._known, self.console.width, self.total)
            self._lines = 0
        if self._lines % HEADER_EVERY == 0:
            self._print({name: name for name in self._columns}, "bold")
        self._print(cells, "")
        self._lines += 1

    def samples(self, responses: Sequence[Response], count: int = 2) -> None:
        """A few completions: a right and a wrong rollout where there are both."""
        if not self.console:
            return
        rollouts = [r for r in responses if not r.is_demo] or list(responses)
        right = [r for r in rollouts if r.is_correct][:1]
        for r in (right + [r for r in rollouts if r not in right])[:count]:
            prompt = r.prompt.problem.prompt
            question = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            self.console.print(Text(f"  ? {_short(question)}", style="dim"), soft_wrap=True)
            style = "green" if r.is_correct else "red"
            self.console.print(Text(f"  {r.verdict.value}: {_short(r.text)}", style=style), soft_wrap=True)

    def evaluation(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table of the evaluated sets."""
        if rows:
            self.table(score_table(rows))

    def table(self, table: Table) -> None:
        """Print a table."""
        if not self.console:
            return
        grid = RichTable(title=table.title, title_justify="left", box=None, pad_edge=False)
        for i, name in enumerate(table.head):
            grid.add_column(name, justify="right" if i else "left")
        for row in table.body:
            grid.add_row(*row)
        self.console.print(grid)

    def _print(self, cells: Mapping[str, str], style: str) -> None:
        assert self.console
        line = " ".join(cells.get(name, "-").rjust(_width(name, self.total)) for name in self._columns)
        self.console.print(Text(line, style=style), soft_wrap=True)


def _cells(metrics: Mapping[str, Any], total: int) -> dict[str, str]:
    """A step's line by column; what it does not have is left out."""
    length = metrics.get("completions/mean_length", metrics.get("demo/mean_length"))
    numbers = {
        "reward": metrics.get("reward"),
        "accuracy": metrics.get("rewards/accuracies"),
        "margin": metrics.get("rewards/margins"),
        **{name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")},
        "entropy": metrics.get("entropy"),
        "entropy/demo": metrics.get("entropy/demo"),
    }
    return {
        "step": f"{metrics['step']}/{total}",
        **{name: _number(value) for name, value in numbers.items() if value is not None},
        **({"length": f"{length:.0f}"} if length is not None else {}),
        **({"tok/s": f"{metrics['tokens_per_second']:.0f}"} if metrics["tokens_per_second"] else {}),
        "left": _duration(metrics["seconds_left"]),
    }


def _fitting(names: Iterable[str], room: int, total: int) -> list[str]:
    """The columns for which a line has room, in their order."""
    order = list(COLUMNS)
    kept: list[str] = []
    for name in sorted(names, key=lambda name: (COLUMNS.get(name, COLUMNS["loss"]), name)):
        if sum(_width(other, total) + 1 for other in kept) + _width(name, total) <= room:
            kept.append(name)
    return sorted(kept, key=lambda name: (order.index(name if name in COLUMNS else "loss"), name))


def _width(name: str, total: int) -> int:
    content = {"step": 2 * len(str(total)) + 1, "length": 5, "tok/s": 5, "left": 5}.get(name, 6)
    return max(len(name), content)


def _number(value: float) -> str:
    return f"{value:z.3f}" if abs(value) < 10 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    return f"{hours}h{minutes:02d}" if hours else f"{minutes}:{rest:02d}"


def _short(text: str, limit: int = 400) -> str:
    text = text.replace("\n", " ⏎ ")
    return text if len(text) <= limit else text[: limit // 2] + " … " + text[-limit // 2 :]
