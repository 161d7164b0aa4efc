"""Who is told of a run as it goes on, and what ends a stage early: a signal, or a callback that stops it or fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from accelerate import Accelerator

from srft.errors import SrftError
from srft.processes import gather
from srft.training.signals import Interruption

Ending = Literal["finished", "stopped", "interrupted", "failed"]


class StopTraining(Exception):
    """Raised in a callback: the run ends after the present step, saved and evaluated, and counts as finished."""


class Listener(Protocol):
    """What is told of a run as it goes on, on the first process; it may raise `StopTraining`."""

    def step(self, metrics: Mapping[str, Any]) -> None:
        """A step's row of metrics.jsonl."""

    def evaluation(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """An evaluation's rows of evaluations.jsonl."""


class EarlyEnd:
    """Whether the stage is to end after its present step. All processes decide alike.

    Attributes:
        interruption: of a signal.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.interruption = accelerator, Interruption()
        self._stopped = False
        self._error: Exception | None = None

    def call(self, callback: Callable[[], None]) -> None:
        """Call, on the first process alone; what is raised ends the stage once every process knows of it."""
        try:
            callback()
        except StopTraining:
            self._stopped = True
        except Exception as error:
            self._error = self._error or error

    def agreed(self) -> Ending | None:
        """How the stage ends here, on every process the same; None where it goes on."""
        asked: list[tuple[Ending, bool]] = [
            ("failed", self._error is not None),
            ("stopped", self._stopped),
            ("interrupted", self.interruption.requested),
        ]
        endings = gather(self.accelerator, [ending for ending, wanted in asked if wanted])
        return next((ending for ending, _ in asked if ending in endings), None)

    def of_run(self, ending: Ending | None, *, last: bool) -> bool | None:
        """Whether the run ends with a stage that ended so: True where it is finished, False where it can be continued,
        None where its next stage follows.

        Args:
            last: the stage is the run's last.

        Raises:
            Exception: what a callback raised; on the other processes that it did.
        """
        if ending == "failed":
            fix = "See the first process's error."
            raise self._error or SrftError("a callback failed", where="callbacks", fix=fix)
        if ending == "stopped":
            return True
        return False if ending == "interrupted" or (self.interruption.requested and not last) else None
