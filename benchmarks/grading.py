"""How often the graders agree with labelled rows, set by set, beside math-verify itself.

python benchmarks/grading.py cases.jsonl …        files of gold, candidate, expected
python benchmarks/grading.py                      the rows of this project's own tests
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from srft.data import Problem
from srft.verify import Verifier


@dataclass(frozen=True)
class Row:
    """A labelled answer; `candidate` is a whole response when there is a box in it."""

    gold: str
    candidate: str
    expected: bool

    @property
    def response(self) -> str:
        return self.candidate if "\\boxed" in self.candidate else f"\\boxed{{{self.candidate}}}"


def own_rows() -> Iterator[Row]:
    """The rows of tests/verify."""
    from tests.verify.test_math import ROWS

    for _, gold, right, wrong in ROWS:
        yield from (Row(gold, text, True) for text in right)
        yield from (Row(gold, text, False) for text in wrong)


def read(path: Path) -> list[Row]:
    """The rows of a file that are not marked as ambiguous."""
    cases = [json.loads(line) for line in path.read_text().splitlines()]
    return [Row(c["gold"], c["candidate"], c["expected"]) for c in cases if not c.get("ambiguous")]


def by_grader(rows: list[Row], name: str) -> list[bool]:
    """Whether each row is right by a grader of this project."""
    with Verifier(workers=1, timeout=20) as verifier:
        grades = verifier.grade([(Problem("", row.gold, grader=name), row.response) for row in rows])
    return [grade.reward == 1 for grade in grades]


def by_math_verify(rows: list[Row]) -> list[bool]:
    """Whether each row is right by math-verify, both sides in a box, the gold answer first."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    golds = [row.gold if "\\boxed" in row.gold else f"\\boxed{{{row.gold}}}" for row in rows]
    return [bool(verify(parse(gold), parse(row.response))) for gold, row in zip(golds, rows, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    args = parser.parse_args()
    sets = {path.name: read(path) for path in args.files} or {"tests/verify": list(own_rows())}
    for name, rows in sets.items():
        for grader in ("math", "oat", "math-verify"):
            right = by_math_verify(rows) if grader == "math-verify" else by_grader(rows, grader)
            wrong = [(r, row) for r, row in zip(right, rows, strict=True) if r != row.expected]
            report = {"set": name, "rows": len(rows), "grader": grader, "agreement": len(rows) - len(wrong)}
            print(json.dumps({**report, "false_positives": sum(r for r, _ in wrong)}), flush=True)


if __name__ == "__main__":
    main()
