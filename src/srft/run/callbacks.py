"""What a user's own code does as a run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srft.run.result import Run


class Callback:
    """Override what you need, and give it to `train(..., callbacks=[...])`. It is called on the first process alone.

    `raise StopTraining` in it ends the run after the present step, saved and evaluated. After any other exception a
    checkpoint is saved, and `train` raises it.
    """

    def on_step(self, step: int, metrics: Mapping[str, Any], run: Run) -> None:
        """After each step.

        Args:
            step: of the run, from 1.
            metrics: its row of metrics.jsonl; docs/metrics.md says what is in it.
            run: what it has written so far.
        """

    def on_evaluation(self, step: int, scores: Mapping[str, Mapping[str, Any]], run: Run) -> None:
        """After each evaluation, one before the first step among them.

        Args:
            step: of the run; 0 before training.
            scores: by the evaluated set's name its row of evaluations.jsonl, e.g. `scores["test"]["avg"]`.
            run: what it has written so far.
        """


@dataclass(frozen=True)
class Callbacks:
    """All of a run's callbacks, as the loop tells them."""

    callbacks: Sequence[Callback]
    run: Run

    def step(self, metrics: Mapping[str, Any]) -> None:
        """See `Callback.on_step`."""
        for callback in self.callbacks:
            callback.on_step(metrics["step"], metrics, self.run)

    def evaluation(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Callback.on_evaluation`."""
        scores = {row["benchmark"]: row for row in rows}
        for callback in self.callbacks:
            callback.on_evaluation(rows[0]["step"], scores, self.run)
