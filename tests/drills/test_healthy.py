"""What a healthy run is warned of, through the command: nothing; and what an unhealthy one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from srft.training.run_dir import RunDir
from tests.helpers import command

pytestmark = pytest.mark.drills


def test_the_quickstart_is_warned_of_nothing(tmp_path: Path) -> None:
    run = command("train", "quickstart", "--out", tmp_path / "run")
    assert run.returncode == 0, run.stderr
    assert RunDir(tmp_path / "run").warnings == []
    doctor = command("doctor", tmp_path / "run")
    assert doctor.returncode == 0, doctor.stdout
    assert "Nothing is wrong with it." in doctor.stdout


def test_the_printed_equation_at_a_high_rate_is_warned_of(tmp_path: Path) -> None:
    words = ["method.preset=paper-en", "method.rollout_signal=binary", "optim.lr=1e-3", "training.steps=20"]
    run = command("train", "quickstart", "--out", tmp_path / "run", *words, "evaluation.sets={}")
    assert run.returncode == 0, run.stderr
    given = {row["name"] for row in RunDir(tmp_path / "run").warnings}
    assert {"reward_fell", "entropy_explosion", "no_signal", "one_term_drives", "reward_stuck"} <= given
    assert command("doctor", tmp_path / "run").returncode == 1
