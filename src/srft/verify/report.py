"""The cases that `srft grade` reads and what it reports: verdicts, a confusion table, disagreements."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from srft.data.files import read_jsonl
from srft.data.problem import Problem
from srft.errors import SrftError, did_you_mean
from srft.verify.grade import Grade, Verdict
from srft.verify.graders import GRADERS
from srft.verify.verifier import Verifier

COMMAND_LINE = tuple(name for name, grader in GRADERS.items() if not grader.uses_metadata)  # a case has none
SHOWN = 20  # disagreements that are listed


@dataclass(frozen=True)
class Case:
    """A gold answer and a candidate.

    Args:
        expected: whether the candidate is right; None when that is not known.
        ambiguous: people may disagree; the case counts neither for nor against the grader.
        name: its id, or its line number in the file; "" for the one of the command line.
    """

    gold: str
    candidate: str
    expected: bool | None = None
    ambiguous: bool = False
    name: str = ""


@dataclass(frozen=True)
class GradedCase:
    """A case and its grade."""

    case: Case
    grade: Grade

    @property
    def counted(self) -> bool:
        """Whether it counts for or against the grader."""
        return self.case.expected is not None and not self.case.ambiguous

    @property
    def agrees(self) -> bool:
        """Whether the verdict is the expected one; meant for a case that is counted."""
        return self.case.expected == (self.grade.verdict is Verdict.RIGHT)

    def to_json(self) -> str:
        """One JSON object in one line of ASCII, whatever characters the answers contain."""
        row: dict[str, Any] = {"id": self.case.name} if self.case.name else {}
        row |= {"gold": self.case.gold, "candidate": self.case.candidate, **asdict(self.grade)}
        return json.dumps(row | ({} if self.case.expected is None else {"expected": self.case.expected}))


def read_cases(gold: str | None, candidate: str | None, file: Path | None) -> list[Case]:
    """The one case of the command line, or those of a file of JSON lines, whose bytes need not all be UTF-8.

    Raises:
        SrftError: neither or both are given; the file cannot be read; a line is malformed.
    """
    if file is None:
        if gold is None or candidate is None:
            raise SrftError("nothing to grade", where="srft grade", fix="Give GOLD and CANDIDATE, or --file.")
        return [Case(gold, candidate)]
    if gold is not None:
        raise SrftError(f"both '{gold}' and a file are given", where="srft grade", fix="Give one of them.")
    return [_case(row, where) for where, row in read_jsonl(file, errors="replace")]


def _case(row: Any, where: str) -> Case:
    missing = [key for key in ("gold", "candidate") if not isinstance(row, dict) or row.get(key) is None]
    if missing:
        raise SrftError(f"no {' and no '.join(missing)}", where=where, fix="A case has gold, candidate, expected.")
    expected = row.get("expected")
    if expected is not None and not isinstance(expected, bool):
        raise SrftError(f"expected is {expected!r}", where=where, fix="Write true or false, or leave it out.")
    name = str(row.get("id", where.rpartition(":")[2]))
    return Case(str(row["gold"]), str(row["candidate"]), expected, bool(row.get("ambiguous")), name)


def grade_cases(
    cases: Sequence[Case], grader: str, workers: int | None, timeout: float, function: str | None
) -> list[GradedCase]:
    """The cases with their grades, in order.

    Args:
        grader: its name; a candidate with a box or a </think> is a whole response, any other an answer.
        workers: processes; None for as many as cores.
        timeout: seconds for one case.
        function: `path/to/file.py:name`, a user's own grader in place of `grader`; None for none.

    Raises:
        SrftError: there is no such grader, or the user's function fails.
    """
    if grader not in COMMAND_LINE:
        raise SrftError(f"no grader '{grader}'", where="--grader", fix=did_you_mean(grader, COMMAND_LINE))
    items = [(Problem("", case.gold, grader=grader), as_response(case.candidate, grader)) for case in cases]
    with Verifier(workers, timeout, rewards={function: 1.0} if function else None) as verifier:
        return [GradedCase(*pair) for pair in zip(cases, verifier.grade(items), strict=True)]


def as_response(candidate: str, grader: str = "math") -> str:
    """The candidate itself when it is a whole response, else a response that boxes it."""
    whole = "\\boxed" in candidate or "</think>" in candidate or not GRADERS[grader].uses_answer
    return candidate if whole else f"\\boxed{{{candidate}}}"


def confusion_table(graded: Sequence[GradedCase]) -> Table:
    """Counts of verdicts by what was expected; its title gives the accuracy over the cases that count."""
    counted = [g for g in graded if g.counted]
    title = f"{len(graded)} cases"
    if counted:
        false_positives = sum(not g.agrees and not g.case.expected for g in counted)
        accuracy = sum(g.agrees for g in counted) / len(counted)
        title += f", accuracy {accuracy:.4f} on {len(counted)}, {false_positives} false positives"
    table = Table(title=title, title_justify="left")
    table.add_column("expected")
    for verdict in Verdict:
        table.add_column(verdict.value, justify="right")
    for expected, rows in (
        ("right", [g for g in counted if g.case.expected]),
        ("not right", [g for g in counted if not g.case.expected]),
        ("ambiguous", [g for g in graded if g.case.ambiguous]),
        ("unknown", [g for g in graded if g.case.expected is None and not g.case.ambiguous]),
    ):
        counts = Counter(g.grade.verdict for g in rows)
        if rows:
            table.add_row(expected, *(str(counts[verdict]) for verdict in Verdict))
    return table


def disagreements(graded: Sequence[GradedCase]) -> list[str]:
    """One line for each of the first cases in which verdict and expectation differ."""
    differ = [g for g in graded if g.counted and not g.agrees]
    lines = [
        f"{g.case.name}: gold {g.case.gold!r}, candidate {g.case.candidate!r}: {g.grade.verdict}, expected "
        f"{'right' if g.case.expected else 'not right'}"
        for g in differ[:SHOWN]
    ]
    return lines + ([f"… and {len(differ) - SHOWN} more"] if len(differ) > SHOWN else [])
