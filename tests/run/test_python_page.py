"""The page about Python: what it says runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import blocks


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks("docs/python.md"):
        exec(block, names)
    assert names["run"].finished
    assert (tmp_path / "runs/stopped/metrics.jsonl").is_file()
