"""Two processes of which one fails: all end within a minute, with the reason."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from srft.training.run_dir import RunDir
from tests.drills import broken_rank
from tests.drills.running import STEPS, TWO, processes_of, running, words

pytestmark = [pytest.mark.drills, pytest.mark.timeout(300)]
RAISES = """
import os

def grade(solution_str):
    if os.environ["RANK"] == "1" and os.path.exists(FLAG):
        raise ValueError("the reward is broken")
    return float(sum(map(ord, solution_str)) % 2)
"""


def ends(out: Path, *command: str, reason: str, broken: Path | None = None) -> None:
    """Within a minute of the fault, which comes with the file `broken`, or else by itself."""
    with running(*command) as run:
        run.wait_for(f"2/{STEPS}")
        began = time.monotonic()
        if broken:
            broken.touch()
        assert run.end(90) not in (0, 130)
        assert time.monotonic() - began < 60
        assert reason in run.output
        assert processes_of(out) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("sampler raises", "RuntimeError: the sampler is broken"),
        ("sampler dies", "SIGKILL"),
        ("saving fails", "the disk is broken"),
    ],
)
def test_a_fault_of_one_rank_ends_both(model: Path, tmp_path: Path, fault: str, reason: str) -> None:
    name = broken_rank.__name__
    ends(tmp_path, *TWO, name, fault, *words(model, tmp_path / "run")[1:], reason=reason)
    saved = RunDir(tmp_path / "run")
    assert [path.name for path in saved.checkpoints] == ([] if fault == "saving fails" else ["step-000003"])


def test_a_reward_that_raises_on_one_rank_ends_both(model: Path, tmp_path: Path) -> None:
    flag, grader = tmp_path / "flag", tmp_path / "grader.py"
    grader.write_text(f"FLAG = {str(flag)!r}\n{RAISES}")
    command = [*TWO, *words(model, tmp_path / "run", f"verify.function={grader}:grade")]
    ends(tmp_path, *command, reason="the reward is broken", broken=flag)
