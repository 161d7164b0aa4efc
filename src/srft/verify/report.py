"""What `srft grade` reads and says: cases from a file, their verdicts, a confusion table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from srft.data.problem import Problem
from srft.errors import SrftError, did_you_mean
from srft.verify.verifier import VERIFIERS, Verdict, Verifier

COMMAND_LINE = tuple(name for name in VERIFIERS if name != "reasoning-gym")  # that one needs the task's entry
SHOWN = 20  # disagreements that are listed


@dataclass(frozen=True)
class Case:
    """A gold answer and a candidate.

    Args:
        expected: whether the candidate is right, where that is known.
        ambiguous: people may differ; it counts neither for nor against the grader.
        name: its id, or its line in the file.
    """

    gold: str
    candidate: str
    expected: bool | None = None
    ambiguous: bool = False
    name: str = ""
    verdict: str = ""
    score: float = 0.0

    @property
    def agrees(self) -> bool:
        return self.expected == (self.verdict == Verdict.RIGHT)

    def to_json(self) -> str:
        """One line; whatever characters the answers hold, it is ASCII."""
        row: dict[str, Any] = {"gold": self.gold, "candidate": self.candidate, "verdict": self.verdict}
        row |= {"score": self.score} | ({} if self.expected is None else {"expected": self.expected})
        return json.dumps(({"id": self.name} if self.name else {}) | row)


def cases(gold: str | None, candidate: str | None, file: Path | None) -> list[Case]:
    """The one case of the command line, or the file's.

    Raises:
        SrftError: neither or both are given, or the file cannot be read.
    """
    if file is None:
        if gold is None or candidate is None:
            raise SrftError("nothing to grade", where="srft grade", fix="Give GOLD and CANDIDATE, or --file.")
        return [Case(gold, candidate)]
    if gold is not None:
        raise SrftError(f"both '{gold}' and a file are given", where="srft grade", fix="Give one of them.")
    try:
        lines = file.read_bytes().decode("utf-8", errors="replace").split("\n")
    except OSError as error:
        raise SrftError(f"cannot be read: {error.strerror}", where=str(file), fix="Check the path.") from None
    return [_case(line, f"{file}:{number}", str(number)) for number, line in enumerate(lines, 1) if line.strip()]


def _case(line: str, where: str, number: str) -> Case:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SrftError(f"malformed JSON: {error}", where=where, fix="Mend or remove that line.") from None
    missing = [key for key in ("gold", "candidate") if not isinstance(row, dict) or row.get(key) is None]
    if missing:
        raise SrftError(f"no {' and no '.join(missing)}", where=where, fix="A case has gold, candidate, expected.")
    expected = row.get("expected")
    if expected is not None and not isinstance(expected, bool):
        raise SrftError(f"expected is {expected!r}", where=where, fix="Write true or false, or leave it out.")
    name = str(row.get("id", number))
    return Case(str(row["gold"]), str(row["candidate"]), expected, bool(row.get("ambiguous")), name)


def grade_cases(
    found: Sequence[Case], grader: str, workers: int | None, timeout: float, function: str | None
) -> list[Case]:
    """The cases with their verdicts. A candidate with a box or a thought is a response, any other an answer.

    Raises:
        SrftError: there is no such grader, or the user's function fails.
    """
    if grader not in COMMAND_LINE:
        raise SrftError(f"no grader '{grader}'", where="--grader", fix=did_you_mean(grader, COMMAND_LINE))
    with Verifier(workers, timeout, function=function) as verifier:
        grades = verifier.grade(
            [(Problem("", case.gold, verifier=grader), as_response(case.candidate, grader)) for case in found]
        )
    return [replace(c, verdict=g.verdict.value, score=g.score) for c, g in zip(found, grades, strict=True)]


def as_response(candidate: str, grader: str = "math") -> str:
    """A response that gives the candidate as its answer."""
    whole = "\\boxed" in candidate or "</think>" in candidate or grader == "format"
    return candidate if whole else f"\\boxed{{{candidate}}}"


def table(graded: Sequence[Case]) -> Table:
    """Verdicts against what was expected, and the accuracy over the cases that are not ambiguous."""
    known = [c for c in graded if c.expected is not None and not c.ambiguous]
    title = f"{len(graded)} cases"
    if known:
        wrongly = sum(not c.agrees and not c.expected for c in known)
        accuracy = sum(c.agrees for c in known) / len(known)
        title += f", accuracy {accuracy:.4f} on {len(known)}, {wrongly} false positives"
    found = Table(title=title, title_justify="left")
    found.add_column("expected")
    for verdict in Verdict:
        found.add_column(verdict.value, justify="right")
    for words, rows in (
        ("right", [c for c in known if c.expected]),
        ("not right", [c for c in known if not c.expected]),
        ("ambiguous", [c for c in graded if c.ambiguous]),
        ("unknown", [c for c in graded if c.expected is None and not c.ambiguous]),
    ):
        counts = Counter(c.verdict for c in rows)
        if rows:
            found.add_row(words, *(str(counts[verdict.value]) for verdict in Verdict))
    return found


def disagreements(graded: Sequence[Case]) -> list[str]:
    """The first cases in which grader and expectation differ, a line each."""
    differ = [c for c in graded if c.expected is not None and not c.ambiguous and not c.agrees]
    lines = [
        f"{c.name}: gold {c.gold!r}, candidate {c.candidate!r}: {c.verdict}, expected "
        f"{'right' if c.expected else 'not right'}"
        for c in differ[:SHOWN]
    ]
    return lines + ([f"… and {len(differ) - SHOWN} more"] if len(differ) > SHOWN else [])
