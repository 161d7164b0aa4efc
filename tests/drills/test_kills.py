"""A run that is killed again and again, and resumed, ends with the files of a run that was not."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from srft import methods
from tests.drills import kills
from tests.drills.cases import names
from tests.drills.compare import differences
from tests.helpers import ROOT

Drill = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    """`kills.py`, which answers a case; the answer is added to the file that SRFT_DRILLS names."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.drills.kills", str(tmp_path_factory.mktemp("kills"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=ROOT,
    )  # fmt: skip

    def ask(**case: Any) -> dict[str, Any]:
        assert server.stdin
        assert server.stdout
        print(json.dumps(case), file=server.stdin, flush=True)
        line = server.stdout.readline()
        if log := os.environ.get("SRFT_DRILLS"):
            with Path(log).open("a") as file:
                file.write(line)
        return json.loads(line)

    yield ask
    server.communicate()


@pytest.mark.parametrize("case", ["srft", "rft", "stages"])
def test_a_killed_run_loses_nothing(drill: Drill, case: str) -> None:
    result = drill(case=case, kills=2, seed=0)
    assert result["differences"] == []
    assert len(result["moments"]) == 2


@pytest.mark.drills
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", names())
def test_no_kill_of_any_method_loses_anything(drill: Drill, case: str) -> None:
    results = [drill(case=case, kills=4, seed=seed) for seed in (1, 2)]
    assert [result["differences"] for result in results] == [[], []]
    assert sum(len(result["moments"]) for result in results) >= 3


@pytest.mark.drills
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("torn", [False, True])
def test_no_change_of_a_file_is_a_bad_moment(drill: Drill, torn: bool) -> None:
    """Killed before the first change that the run makes in its folder, before the second, and so on to the last."""
    changes = drill(case="best checkpoint")["changes"]
    results = [drill(case="best checkpoint", change=change, torn=torn) for change in range(1, changes + 1)]
    assert [result["moments"] + result["differences"] for result in results if result["differences"]] == []
    assert all(len(result["moments"]) == 1 for result in results)


def test_every_registered_method_is_killed() -> None:
    assert {name for name, method in methods().items() if method.function.__module__.startswith("srft.")} <= {*names()}


def test_what_is_lost_is_seen(tmp_path: Path) -> None:
    """The comparison itself: a row less, another value, a file that one has alone; times do not count."""
    for name, rows in (
        ("a", '{"step": 1, "loss": 0.5, "step_time": 1}\n'),
        ("b", '{"step": 1, "loss": 0.5, "step_time": 2}\n'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(rows)
    one, other = tmp_path / "a", tmp_path / "b"
    assert differences(one, other) == []
    (other / "metrics.jsonl").write_text('{"step": 1, "loss": 0.25}\n')
    assert differences(one, other) == ["metrics.jsonl: row 1: loss: 0.5, 0.25"]
    (other / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n' * 2)
    (other / "x.partial").touch()
    (one / "rollouts.bin").touch()
    assert differences(one, other) == ["rollouts.bin: lost", "x.partial: new", "metrics.jsonl: other rows"]


def test_kills_are_spread_over_the_run() -> None:
    whole = kills.Attempt(0, 10.0, 100, "")
    plans = [list(kills.planned(3, whole, random.Random(seed))) for seed in range(30)]
    assert {len(plan) for plan in plans} == {4}
    assert all(plan[-1] == kills.Kill() for plan in plans)
    assert all(sum(kill.change for kill in plan) <= 103 for plan in plans)
    assert {kill.torn for plan in plans for kill in plan if kill.change} == {True, False}
