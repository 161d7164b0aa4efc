"""What a user watches: a line a step, a few completions, the evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from srft.rollout.response import Response

HEADER_EVERY = 20


class Display:
    """Prints to a Rich console; silent where `console` is None (every rank but the first)."""

    def __init__(self, console: Console | None, total: int) -> None:
        self.console, self.total, self._lines = console, total, 0

    def say(self, text: str) -> None:
        if self.console:
            self.console.print(text, highlight=False)

    def step(self, metrics: Mapping[str, Any]) -> None:
        """One line: reward, entropies, each loss term, length, speed, time left."""
        if not self.console:
            return
        cells = {
            "step": f"{metrics['step']}/{self.total}",
            "reward": _number(metrics.get("reward")),
            "H demo": _number(metrics.get("entropy/demo")),
            "H roll": _number(metrics.get("entropy")),
            **{k.removeprefix("loss/"): _number(v) for k, v in metrics.items() if k.startswith("loss/")},
            "length": f"{metrics.get('completions/mean_length', metrics.get('demo/mean_length', 0)):.0f}",
            "tok/s": f"{metrics['tokens_per_second']:.0f}",
            "left": _duration(metrics["seconds_left"]),
        }
        widths = {name: max(len(name), 8) for name in cells}
        if self._lines % HEADER_EVERY == 0:
            self.console.print(Text("  ".join(n.rjust(w) for n, w in widths.items()), style="bold"), soft_wrap=True)
        line = "  ".join(cells[name].rjust(w) for name, w in widths.items())
        self.console.print(Text(line), soft_wrap=True)
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
        if not self.console or not rows:
            return
        grid = Table(title=f"evaluation at step {rows[0]['step']}", title_justify="left")
        grid.add_column("benchmark")
        for column in ("problems", "samples", "avg", "pass", "length"):
            grid.add_column(column, justify="right")
        for row in rows:
            k = row["samples"]
            scores = [f"{100 * value:.1f} %" for value in (row["avg"], row[f"pass@{k}"])]
            grid.add_row(row["benchmark"], str(row["problems"]), str(k), *scores, f"{row['response_length']:.0f}")
        self.console.print(grid)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _short(text: str, limit: int = 400) -> str:
    text = text.replace("\n", " ⏎ ")
    return text if len(text) <= limit else text[: limit // 2] + " … " + text[-limit // 2 :]
