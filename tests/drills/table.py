"""The drills' answers as tables of Markdown: table.py FILE, the one that SRFT_DRILLS named."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PHASES = ("starting", "sampling its data", "sampling", "updating", "evaluating")  # "updating" includes saving


def totals(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Sums over all drills."""
    sums: Counter[str] = Counter()
    for result in results:
        lost = result["bytes"] if result["differences"] else 0
        sums.update({"kills": len(result["moments"]), "resumed runs compared": 1, "processes": result["processes"]})
        sums.update({"files compared": result["files"], "bytes compared": result["bytes"], "bytes that differ": lost})
    return dict(sums)


def moments(results: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """Kills by phase and kind."""
    counts: Counter[tuple[str, str]] = Counter()
    for result in results:
        for moment in result["moments"]:
            phase, _, change = moment.partition(": ")
            counts[phase, "torn" if change.endswith("torn") else "change" if change else "time"] += 1
    return counts


def main(file: Path) -> None:
    """Print sums, then kills by phase."""
    results = [json.loads(line) for line in file.read_text().splitlines()]
    for name, count in totals(results).items():
        print(f"| {name} | {count:,} |")
    print("\n| phase | at any time | before a file is changed | in the middle of a file |\n|---|---|---|---|")
    counts = moments(results)
    for phase in PHASES:
        print(f"| {phase} | {counts[phase, 'time']} | {counts[phase, 'change']} | {counts[phase, 'torn']} |")
    print("\n| case | kills | differences |\n|---|---|---|")
    for case in dict.fromkeys(result["case"] for result in results):
        mine = [result for result in results if result["case"] == case]
        kills, wrong = sum(len(result["moments"]) for result in mine), sum(len(r["differences"]) for r in mine)
        print(f"| {case} | {kills} | {wrong} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
