"""Networks in shards: two and four processes give what one gives, for every method; one reads what another number wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from srft import SrftError, load_recipe, train
from srft.run import estimate, sharding
from srft.run.plan import make_plan
from srft.training.run_dir import RunDir
from srft.training.settings import TrainingSettings
from srft.verify.verifier import Verifier
from tests.helpers import ROOT, SMALL
from tests.training import sharded_runs

pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")
TIMES = ("seconds", "tokens_per_second", "step_time", "steps_left")


def launch(ranks: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), *map(str, words)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What one process, two and four have trained: a launch each."""
    folder = tmp_path_factory.mktemp("runs")
    sharded_runs.make_model(folder)
    for ranks in (1, 2, 4):
        launch(ranks, sharded_runs.__file__, folder)
    yield folder
    shutil.rmtree(folder)


def same(one: Path, other: Path) -> None:
    """Metrics, and weights under the same names, to 1e-5."""
    expected, found = RunDir(one), RunDir(other)
    assert len(expected.metrics) == sharded_runs.STEPS
    for a, b in zip(expected.metrics, found.metrics, strict=True):
        values = {name: value for name, value in b.items() if not name.startswith(TIMES)}
        assert values == pytest.approx({name: a[name] for name in values}, rel=1e-5, abs=1e-5)
        assert a.keys() == b.keys()
    mine, theirs = (load_weights(run.checkpoint) for run in (expected, found))
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-5, atol=1e-5)


def numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, int | float) and name != "seconds"}


def load_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    (file,) = checkpoint.glob("*model.safetensors")
    return load_file(file)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("method", sharded_runs.recipes_of_methods())
@pytest.mark.parametrize("ranks", [2, 4])
def test_shards_train_as_one_process(runs: Path, ranks: int, method: str) -> None:
    """By gradient descent: equal weights are equal gradients."""
    rows = RunDir(runs / "1" / method).metrics
    assert any(row["grad_norm"] > 1e-3 for row in rows)
    same(runs / "1" / method, runs / str(ranks) / method)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", sharded_runs.RESUMED)
def test_any_number_of_processes_resumes(runs: Path, tmp_path: Path, case: str) -> None:
    """A step of one process, the next of two with shards, the next of four; against three of one process."""
    sharded_runs.train_resumed(runs, tmp_path, sharded_runs.STEPS, [case])
    same(tmp_path / case, runs / "resumed" / case)
    shards = [len(list(folder.iterdir())) for folder in sorted((runs / "resumed" / case).glob("trainer/*/tensors"))]
    assert shards == [2, 4]


@pytest.mark.slow
def test_a_launch_as_documented(tmp_path: Path) -> None:
    """The embedded model, whose head is tied, with evaluations and their statistics."""
    changes = [*SMALL, "evaluation.statistics=true", "optim.lr=1e-5"]
    alone = train(load_recipe("quickstart", changes), tmp_path / "one")
    words = ["-m", "srft", "train", "quickstart", *changes, "training.shard=true", "--out", tmp_path / "two"]
    assert "2 × cpu, sharded" in launch(2, *words).stdout  # and not two runs of one process
    found = RunDir(tmp_path / "two")
    for a, b in zip(alone.metrics, found.metrics, strict=True):
        values = {name: value for name, value in b.items() if not name.startswith(TIMES)}
        assert values == pytest.approx({name: a[name] for name in values}, rel=1e-4, abs=1e-4)
    for a, b in zip(alone.evaluations, found.evaluations, strict=True):
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-3)
    mine, theirs = load_weights(alone.directory.checkpoint), load_weights(found.checkpoint)
    assert mine.keys() == theirs.keys()  # the tied weight once
    for name, weight in mine.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-5, atol=1e-5)
    assert len(list(found.path.glob("trainer/step-000002/tensors/shard-*"))) == 2
    assert json.loads((found.checkpoint / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]


def test_one_process_has_nothing_to_share(tmp_path: Path) -> None:
    changes = [*SMALL, "evaluation.sets={}", "method.name=sft", "training.steps=1", "training.shard=true"]
    assert train(load_recipe("quickstart", changes), tmp_path / "run").finished


def test_offloading_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SrftError, match="no shards to keep"):
        train(load_recipe("quickstart", [*SMALL, "training.offload=true"]), tmp_path / "run")
    with pytest.raises(ValueError, match="`shard` is false"):
        TrainingSettings(steps=1, shard=False, offload=True)


def test_what_trl_trains_is_not_sharded(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="trl is not installed: scripts/setup test")
    recipe = load_recipe("quickstart-sft-then-dpo", ["training.device=cpu", "stages.1.training.shard=true"])
    with pytest.raises(SrftError, match="'dpo' is trained by TRL"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("device", "ranks", "free", "sharded"),
    [("cuda", 8, 1.1, False), ("cuda", 8, 0.9, True), ("cuda", 1, 0.9, False), ("cpu", 8, 0.9, False)],
)
def test_left_to_decide_several_gpus_share_what_one_cannot_hold(
    monkeypatch: pytest.MonkeyPatch, device: str, ranks: int, free: float, sharded: bool
) -> None:
    """`free` memory of a GPU, as a share of what the run needs of one process."""
    with Verifier(1) as verifier:
        plan = make_plan(load_recipe("quickstart", ["data.limit=4"]), verifier)
    memory = estimate.estimate(plan).total_memory
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * memory), 2**40))
    monkeypatch.setattr(sharding, "gather", lambda accelerator, mine: mine * accelerator.num_processes)
    processes: Any = SimpleNamespace(device=torch.device(device), num_processes=ranks)
    assert sharding.with_sharding(plan, processes).recipe.training.shard is sharded
