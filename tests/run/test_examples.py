"""The example that is the whole of it in one page."""

from __future__ import annotations

import re

from tests.helpers import ROOT, python

FILE = ROOT / "examples/minimal.py"


def test_the_minimal_example_trains_a_step() -> None:
    result = python(FILE, "--steps", "1", "--prompts", "2", "--rollouts", "2", "--problems", "2")
    assert result.returncode == 0, result.stderr
    before, step, after = result.stdout.splitlines()
    scores = [
        re.fullmatch(rf"{word}: avg@4 (\d\.\d{{3}})", line) for word, line in (("before", before), ("after", after))
    ]
    reward = re.fullmatch(r"step 1: reward (\d\.\d{3}), loss -?\d+\.\d{3}", step)
    for match in (*scores, reward):
        assert match, result.stdout
        assert 0 <= float(match[1]) <= 1


def test_the_minimal_example_is_one_page() -> None:
    assert len(FILE.read_text().splitlines()) < 120
