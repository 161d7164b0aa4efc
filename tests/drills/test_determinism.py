"""The same seed on the same machine gives the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.compare import differences
from tests.drills.running import ALONE, TWO, running, words
from tests.training import sharded_runs


@pytest.mark.drills
@pytest.mark.timeout(300)
@pytest.mark.parametrize("launcher", [ALONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_command_gives_the_same_bits(tmp_path: Path, launcher: tuple[str, ...], seed: int) -> None:
    sharded_runs.make_model(tmp_path)
    for out in ("one", "other"):
        with running(*launcher, *words(tmp_path, tmp_path / out, f"training.seed={seed}")) as run:
            assert run.end(200) == 0, run.output
    assert differences(tmp_path / "one", tmp_path / "other") == []
