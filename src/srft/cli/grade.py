"""`srft grade`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srft.cli.app import console


def grade(
    gold: Annotated[str | None, typer.Argument(help="The right answer.")] = None,
    candidate: Annotated[str | None, typer.Argument(help="An answer, or a response with \\boxed{…} in it.")] = None,
    file: Annotated[Path | None, typer.Option(help="JSON lines of gold, candidate and, if known, expected.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object a line, in the file's order.")] = False,
    grader: Annotated[str, typer.Option(help="A name from docs/grading.md.")] = "math",
    function: Annotated[str | None, typer.Option(help="path/to/file.py:name, a grader of your own.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as cores if left out.")] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds for one answer.")] = 10.0,
) -> None:
    """Grade an answer: `srft grade '\\frac{1}{2}' 0.5`. Or a file of them, with a table of verdicts."""
    from srft.verify import report

    cases = report.read_cases(gold, candidate, file)
    graded = report.grade_cases(cases, grader, workers, timeout, function)
    if as_json:
        for case in graded:
            print(case.to_json(), flush=True)
    elif file is None:
        console().print(graded[0].grade.verdict.value)
    else:
        console().print(report.confusion_table(graded))
        for line in report.disagreements(graded):
            console().print(line, highlight=False)
