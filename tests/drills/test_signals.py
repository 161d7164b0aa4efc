"""Signals to the command, alone and through torchrun: it saves, says how to go on, and goes on to the same end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from srft.training.run_dir import RunDir
from tests.drills.compare import differences
from tests.drills.running import ALONE, STEPS, TWO, running, words

pytestmark = [pytest.mark.drills, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=[ALONE, TWO], ids=["one", "two"])
def launcher(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


@pytest.fixture(scope="module")
def whole(model: Path, launcher: tuple[str, ...]) -> Path:
    out = model / f"whole-{len(launcher)}"
    with running(*launcher, *words(model, out)) as run:
        assert run.end(200) == 0, run.output
    return out


def resume(launcher: tuple[str, ...], out: Path, whole: Path) -> None:
    """To the end, which is that of the run that was not stopped."""
    with running(*launcher, "srft", "train", "--resume", "--out", str(out)) as run:
        assert run.end(200) == 0, run.output
    kept = {f"{place}/step-{step:06d}" for place in ("checkpoints", "trainer") for step in range(STEPS)}
    lines = differences(whole, out)
    assert [line for line in lines if not line.startswith(tuple(kept))] == []  # the stopped run saved at its own step


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_one_signal_saves(model: Path, launcher: tuple[str, ...], whole: Path, tmp_path: Path, signum: int) -> None:
    out = tmp_path / "run"
    with running(*launcher, *words(model, out)) as run:
        run.wait_for(f"2/{STEPS}")
        run.send(signum, to_all=signum == signal.SIGINT)
        assert run.end() != 0
        assert f"srft train --resume --out {out}" in run.output
    saved = RunDir(out)
    assert saved.checkpoint.name == f"step-{len(saved.metrics):06d}"
    assert 2 <= len(saved.metrics) < STEPS
    resume(launcher, out, whole)


def test_ctrl_c_twice_ends_at_once(model: Path, launcher: tuple[str, ...], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(*launcher, *words(model, out)) as run:
        run.wait_for(f"4/{STEPS}")
        run.send(signal.SIGINT, to_all=True)
        run.wait_for("Finishing this step")
        run.send(signal.SIGINT, to_all=True)
        assert run.end(30) != 0
    resume(launcher, out, whole)
