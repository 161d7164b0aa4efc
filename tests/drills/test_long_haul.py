"""Two thousand steps: memory, files, threads and processes stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.drills import long_haul
from tests.helpers import ROOT, python


@pytest.mark.drills
@pytest.mark.timeout(7200)
def test_two_thousand_steps_hold_on_to_nothing(tmp_path: Path) -> None:
    done = python("-m", long_haul.__name__, tmp_path / "run", 2000, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["steps"] == 2000
    assert result["kib_per_100_steps"]["rss"] < 2048
    assert result["checkpoints"] == 2
    for name in ("files", "threads", "processes"):
        assert result[name]["most"] - result[name]["least"] <= 2
    assert result["seconds_to_read_metrics"] < 2


def test_slopes() -> None:
    rows = [{"step": step, "rss": 1000 + 3 * step} for step in range(0, 100, 20)]
    assert long_haul.per_hundred_steps(rows, "rss") == pytest.approx(300)
