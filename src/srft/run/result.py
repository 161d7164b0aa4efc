"""What `train` returns: a run, to read and to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from srft.evaluation.report import Table
from srft.recipe.load import load_recipe
from srft.run.export import load_trained
from srft.run.quiet import quiet_libraries
from srft.safe_text import printable
from srft.training.run_dir import RunDir
from srft.training.scores import change_table

SHOWN = ("reward", "loss", "entropy", "entropy/demo", "completions/mean_length", "learning_rate")


@dataclass(frozen=True, repr=False)
class Run:
    """A run: finished, interrupted, or on its way.

    Args:
        directory: its files.
        finished: it reached its end, or a callback stopped it.
    """

    directory: RunDir
    finished: bool

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict a step; docs/metrics.md says what is in it."""
        return self.directory.metrics

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """One dict an evaluated benchmark and step."""
        return self.directory.evaluations

    def load(self, best: bool = False) -> Any:
        """The trained model, a transformers causal LM; LoRA adapters are merged into it.

        Args:
            best: the best checkpoint by the recipe's `training.best`, in place of the newest.

        Raises:
            SrftError: there is no such checkpoint.
        """
        recipe = load_recipe(self.directory.path / "recipe.yaml")
        with quiet_libraries():
            return load_trained(recipe, self.directory.best_checkpoint if best else self.directory.checkpoint)

    def __repr__(self) -> str:
        lines = [self._title()]
        for table in self._tables():
            widths = [max(map(len, column)) for column in zip(table.head, *table.body, strict=True)]
            rows = [table.head, *table.body]
            lines += ["", table.title, *("  ".join(map(str.rjust, row, widths)).rstrip() for row in rows)]
        return printable("\n".join(lines))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f"<p>{escape(self._title())}</p>" + "".join(map(_html, self._tables()))

    def _title(self) -> str:
        return f"Run {self.directory.path}: {'finished' if self.finished else 'not finished'}"

    def _tables(self) -> list[Table]:
        """The evaluations before and after, and the last step's metrics."""
        tables = []
        if evaluations := self.evaluations:
            tables.append(change_table(evaluations))
        if metrics := self.metrics:
            tables.append(_last_step(metrics[-1]))
        return tables


def _last_step(row: Mapping[str, Any]) -> Table:
    terms = [name for name in row if name.startswith("loss/")]
    names = [*(name for name in SHOWN if name in row), *(terms if len(terms) > 1 else ())]
    return Table(f"step {row['step']}", names, [[f"{row[name]:.4g}" for name in names]])


def _html(table: Table) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = [line(table.head, "th"), *(line(row, "td") for row in table.body)]
    return f"<table><caption>{escape(table.title)}</caption>{''.join(rows)}</table>"
