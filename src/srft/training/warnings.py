"""Trouble in training that raises no error: said when it begins, and found again in a run's rows afterwards.

A run and `srft doctor RUN` examine the rows of metrics.jsonl by the same `conditions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from srft.training.conditions import KINDS, MEMORY, Rows

QUIET = 20  # steps for which a warning must have been away to be said again
TEMPLATE = "template_mismatch"
TEMPLATE_CONDITION = (
    "before a stage: prompts begin with no BOS or two, the chat template does not open the assistant's turn, or the "
    "tokenizer changes more than 1 in 20 demonstrations"
)
TEMPLATE_ADVICE = "See a prompt as it is read by `--dry-run`; another `data.template`, or the model's own tokenizer."
HOLDS = "warning/"  # and a name: a metric that is 1 while that warning holds


@dataclass(frozen=True)
class TrainingWarning:
    """What was seen, and what to do about it.

    Args:
        name: e.g. "truncated".
        text: what was seen, with its numbers.
        advice: which settings to change.
    """

    name: str
    text: str
    advice: str

    def row(self, step: int) -> dict[str, Any]:
        """As warnings.jsonl has it, given at a step of the run."""
        return {"step": step, **asdict(self)}


def holding(rows: Rows) -> list[TrainingWarning]:
    """The warnings that hold in the last of a stage's rows, which are its first and the last `MEMORY`."""
    seen = {name: kind.seen(rows) for name, kind in KINDS.items()}
    return [TrainingWarning(name, text, KINDS[name].advice) for name, text in seen.items() if text]


def mark(row: dict[str, Any], past: Rows) -> list[TrainingWarning]:
    """Put the warnings that hold after a step into its row. Returns those that begin with it.

    Args:
        past: the rows of the stage's steps before it, marked.
    """
    now = holding([*past[:1], *past[1:][-MEMORY:], row])
    row |= {HOLDS + warning.name: 1.0 for warning in now}
    return [w for w in now if not any(HOLDS + w.name in other for other in past[-QUIET:])]


def template_warnings(faults: Sequence[str]) -> list[TrainingWarning]:
    """One where template and tokenizer do something to the data: it is seen before a stage begins, in no row."""
    return [TrainingWarning(TEMPLATE, "; ".join(faults), TEMPLATE_ADVICE)] if faults else []


def examined(rows: Rows) -> Iterator[tuple[int, TrainingWarning]]:
    """Every warning of a run with the step at which it begins, whatever was said while it trained.

    Args:
        rows: of metrics.jsonl, of all stages.
    """
    for stage in dict.fromkeys(row["stage"] for row in rows):
        past: list[dict[str, Any]] = []
        for row in (row for row in rows if row["stage"] == stage):
            plain = {name: value for name, value in row.items() if not name.startswith(HOLDS)}
            yield from ((row["step"], warning) for warning in mark(plain, past))
            past.append(plain)


def warnings_page() -> str:
    """The table of docs/reliability.md, in Markdown."""
    lines = ["| warning | when | what to do |", "|---|---|---|"]
    lines += [f"| `{name}` | {kind.condition} | {kind.advice} |" for name, kind in KINDS.items()]
    lines += [f"| `{TEMPLATE}` | {TEMPLATE_CONDITION} | {TEMPLATE_ADVICE} |"]
    return "\n".join(lines) + "\n"
