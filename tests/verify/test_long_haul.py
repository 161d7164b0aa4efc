"""100,000 graded answers: memory, open files, threads and processes stay as they are."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from srft.verify import Verifier

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from hostile import good_items, hostile_items, slow_items

ANSWERS, BATCH, HOSTILE = 100_000, 1000, 40
FUNCTION = "def score(completions, **columns):\n    return [len(text) / 1e6 for text in completions]\n"


def slope(sizes: Sequence[float]) -> float:
    """Of the line of least squares, by sample."""
    return statistics.linear_regression(range(len(sizes)), sizes).slope


@pytest.mark.drills
@pytest.mark.timeout(3600)
def test_memory_and_handles_stay_flat(tmp_path: Path) -> None:
    """Honest answers, 4 % hostile ones and 20 that are killed at the deadline, by a grader and a user's function; samples
    after each 1,000."""
    (tmp_path / "own.py").write_text(FUNCTION)
    me = psutil.Process()
    parent, workers, children = list[float](), list[float](), list[float]()  # KiB
    counts = list[tuple[int, int, int]]()
    with Verifier(1, timeout=2, rewards={"grader": 1.0, f"{tmp_path / 'own.py'}:score": 0.0}) as verifier:
        for batch in range(ANSWERS // BATCH):
            items = hostile_items(HOSTILE, seed=batch) + (slow_items()[:1] if batch % 5 == 0 else [])
            items += [item for item, _ in good_items(BATCH - len(items), seed=batch)]
            assert len(verifier.grade(items)) == BATCH
            below = me.children(recursive=True)
            parent.append(me.memory_info().rss / 1024)
            workers.append(sum(p.memory_info().rss for p in below if p.ppid() == me.pid) / 1024)
            children.append(max(p.memory_info().rss for p in below if p.ppid() != me.pid) / 1024)
            counts.append((me.num_fds(), me.num_threads(), len(below)))
        verdicts, replaced = dict(verifier.counts), verifier.replaced
    assert me.children() == []
    warm = len(parent) // 10
    constant = set(counts[warm:])
    print(
        f"{ANSWERS:,} answers: the parent grows by {slope(parent[warm:]):.1f} KiB per 1,000 answers, its workers by "
        f"{slope(workers[warm:]):.1f}, a child has at most {max(children) / 1024:.0f} MiB; "
        f"(files, threads, processes) {constant}; {verdicts}, {replaced} replaced"
    )
    assert slope(parent[warm:]) < 20
    assert slope(workers[warm:]) < 20
    assert len(constant) == 1
