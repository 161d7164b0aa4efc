"""Runs end to end on the embedded model: every method by one word, resume, interruption, faults, two processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from srft import Run, load_recipe, methods, train
from srft.data import resolve_path
from srft.training.run_dir import RunDir
from tests.helpers import SMALL, command, weights


def small(*overrides: str) -> Any:
    return load_recipe("quickstart", [*SMALL, *overrides])


@pytest.mark.parametrize(
    ("name", "preset"), [("sft", None), ("grpo", None), ("sft+rl", None), ("srft", None), ("srft", "hpt")]
)
def test_another_method_is_another_word(tmp_path: Path, name: str, preset: str | None) -> None:
    chosen = [f"method.preset={preset}"] if preset else []
    run = train(small(f"method.name={name}", "optim.lr=1e-3", *chosen), tmp_path / "run")
    assert run.finished
    assert [row["step"] for row in run.metrics] == [1, 2]
    for row in run.metrics:
        assert all(abs(value) < 1e6 for value in row.values())
        assert sum(v for k, v in row.items() if k.startswith("gradient_share/")) == pytest.approx(1)
        assert ("reward" in row) == ("rollouts" in methods()[name].needs({}))
    before, after = weights(resolve_path("srft:model")), weights(run.directory.checkpoint)
    assert any(not torch.equal(before[k], after[k]) for k in before)
    assert {row["benchmark"] for row in run.evaluations} == {"test", "ood"}


def test_run_directory(tmp_path: Path) -> None:
    run = train(small("logging.trackers=[tensorboard]"), tmp_path / "run")
    assert load_recipe(tmp_path / "run/recipe.yaml") == small("logging.trackers=[tensorboard]")
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    rows = [json.loads(line) for line in (tmp_path / "run/rollouts/step-000001.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * (4 + 1)
    assert [row["reward"] for row in rows if row["is_demo"]] == [1.0] * 4
    assert all(row["truncated"] == (row["tokens"] == 160) for row in rows)
    text = AutoTokenizer.from_pretrained(run.directory.checkpoint).decode(
        run.load().generate(torch.tensor([[5, 6]]), max_new_tokens=3)[0]
    )
    assert isinstance(text, str)
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_resume_gives_the_same_numbers(tmp_path: Path) -> None:
    whole = train(small("training.steps=3"), tmp_path / "whole")
    train(small("training.steps=2"), tmp_path / "parts")
    parts = train(small("training.steps=3"), tmp_path / "parts", resume=True)
    assert [row["step"] for row in parts.metrics] == [1, 2, 3]
    same(whole, parts)


def same(one: Run, other: Run, atol: float = 1e-5) -> None:
    ignored = ("seconds", "tokens_per_second", "step_time", "steps_left")
    for a, b in zip(one.metrics, other.metrics, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            if not key.startswith(ignored):
                assert a[key] == pytest.approx(b[key], rel=1e-4, abs=atol), key
    mine, theirs = weights(one.directory.checkpoint), weights(other.directory.checkpoint)
    for key in mine:
        torch.testing.assert_close(mine[key], theirs[key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(["method.name=sft+rl", "optim.updates_per_batch=2"], id="two updates"),
        pytest.param(["method.entropy_scope=batch"], id="means"),
        pytest.param(["method.name=prime", "optim.auxiliary_lr=1e-3"], id="reward model"),
        pytest.param(["method.name=dapo", "hooks.refill.rounds=2", "rollout.n=2"], id="refill"),
        pytest.param(["method.name=relift", "hooks.buffer.size=1", "rollout.n=2"], id="buffer"),
    ],
)
def test_two_processes_are_one(tmp_path: Path, changes: list[str]) -> None:
    alone = train(small(*changes), tmp_path / "one")
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "srft", "train", "quickstart", *SMALL, *changes, "--out", str(tmp_path / "two")],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert "2 × cpu" in launched.stdout  # and not two runs of one process
    same(alone, Run(RunDir(tmp_path / "two"), True))


STAGES = {
    "extends": "quickstart",
    "name": "stages",
    "stages": [{"method": {"name": "sft"}}, {"method": {"name": "ppo"}}, {"method": {"name": "rft"}}],
}


@pytest.mark.slow
def test_stages_follow_one_another_and_resume_in_the_middle(tmp_path: Path) -> None:
    """Stopped in the second stage and continued, a staged run is the run that was not stopped."""
    changes = [*SMALL, "data.limit=8", "stages.0.optim.lr=1e-3"]
    whole = train(load_recipe(STAGES, changes), tmp_path / "whole")
    assert [(row["step"], row["stage"]) for row in whole.metrics] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)]
    assert ["reward" in row for row in whole.metrics] == [False, False, True, True, False, False]
    assert {row["step"] for row in whole.evaluations} == {0, 2, 4, 6}
    selected = [json.loads(line) for line in (tmp_path / "whole/selection-3.jsonl").read_text().splitlines()]
    assert all(set(row) == {"prompt", "answer", "completion"} for row in selected)

    shorter = [*changes, "stages.1.training.steps=1", "stages.2.training.steps=0", "stages.2.data.selection.n=1"]
    train(load_recipe(STAGES, shorter), tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts/checkpoints/step-000003", ignore_errors=False)
    assert RunDir(tmp_path / "parts").checkpoint.name == "step-000002"
    parts = train(load_recipe(STAGES, changes), tmp_path / "parts", resume=True, allow_changes=True)
    same(whole, parts)


@pytest.mark.parametrize("name", ["ppo", "prime", "relift"])
def test_all_that_is_trained_resumes(tmp_path: Path, name: str) -> None:
    changes = [f"method.name={name}", "optim.auxiliary_lr=1e-3", "evaluation.sets={}", "logging.samples_every=0"]
    changes += ["hooks.buffer.size=2", "rollout.n=2"] if name == "relift" else []
    whole = train(small(*changes, "training.steps=3"), tmp_path / "whole")
    train(small(*changes, "training.steps=2"), tmp_path / "parts")
    same(whole, train(small(*changes, "training.steps=3"), tmp_path / "parts", resume=True))


def test_initial_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """Of a critic: not on what was drawn before it was made."""
    changes = [*SMALL, "data.limit=4", "training.steps=1", "evaluation.sets={}"]
    alone = train(load_recipe("quickstart", [*changes, "method.name=ppo"]), tmp_path / "alone")
    stages = {**STAGES, "stages": [{"method": {"name": "sft"}}, {"method": {"name": "ppo"}}]}
    second = train(load_recipe(stages, [*changes, "stages.0.training.steps=0"]), tmp_path / "second")
    assert second.metrics[0]["loss/value"] == pytest.approx(alone.metrics[0]["loss/value"], rel=1e-5)


def test_groups_that_teach_nothing_are_replaced(tmp_path: Path) -> None:
    changes = ["method.name=grpo", "hooks.refill.rounds=20", "rollout.n=2", "evaluation.sets={}"]
    run = train(small(*changes, "training.steps=3"), tmp_path / "run")
    for row in run.metrics:
        assert row["groups"] == 4
        assert row["groups_drawn"] >= 4
        assert row["reward"] == 0.5  # one right and one wrong of two
    assert sum(row["groups_drawn"] for row in run.metrics) > 12
    prompts = [
        json.loads(line)["prompt"]
        for file in sorted((tmp_path / "run/rollouts").iterdir())
        for line in file.read_text().splitlines()
    ]
    assert len(set(prompts)) == 12  # none is drawn twice
    train(small(*changes, "training.steps=2"), tmp_path / "parts")
    same(run, train(small(*changes, "training.steps=3"), tmp_path / "parts", resume=True))


def test_the_buffer_learns_demonstrations_of_failed_prompts(tmp_path: Path) -> None:
    changes = ["method.name=relift", "hooks.buffer.size=3", "rollout.n=1", "evaluation.sets={}", "training.steps=4"]
    run = train(small(*changes), tmp_path / "run")
    waiting = 0
    for row in run.metrics:
        failed = round(4 * (1 - row["reward"]))
        waiting += failed
        assert ("buffer/loss" in row) == (waiting >= 3)
        waiting -= 3 if waiting >= 3 else 0
        assert row["buffer/size"] == waiting
    assert any("buffer/loss" in row for row in run.metrics)


def test_sasr_does_one_or_the_other(tmp_path: Path) -> None:
    changes = ["method.name=sasr", "method.warmup_steps=2", "evaluation.sets={}", "training.steps=8"]
    run = train(small(*changes, "training.prompts_per_step=2"), tmp_path / "run")
    kinds = ["reward" in row for row in run.metrics]
    assert kinds[:2] == [False, False]
    assert set(kinds[2:]) == {True, False}
    for row in run.metrics:
        assert ("demo/reward" in row) != ("reward" in row)


@pytest.mark.slow
def test_ctrl_c_saves_and_resume_continues(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "srft", "train", "quickstart", *SMALL, "training.steps=500", "--out", str(out)],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if line.strip().startswith("1/500"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert f"srft train --resume --out {out}" in printed
    steps = len(RunDir(out).metrics)
    assert 1 <= steps < 10
    finished = command("train", "--resume", "--out", out, f"training.steps={steps + 1}")
    assert finished.returncode == 0, finished.stderr
    assert [row["step"] for row in RunDir(out).metrics] == list(range(1, steps + 2))


def test_lora_run_resumes(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")
    changes = ["model.lora.rank=4", "model.lora.dropout=0.3", "method.name=sft", "optim.lr=1e-3", "evaluation.sets={}"]
    whole = train(small(*changes, "training.steps=2"), tmp_path / "whole")
    train(small(*changes, "training.steps=1"), tmp_path / "parts")
    parts = train(small(*changes, "training.steps=2"), tmp_path / "parts", resume=True)
    assert parts.metrics[-1]["loss"] == pytest.approx(whole.metrics[-1]["loss"], rel=1e-4)
    assert (parts.directory.checkpoint / "adapter_model.safetensors").exists()


def test_bf16_and_checkpointing_run(tmp_path: Path) -> None:
    changes = [
        "training.precision=bf16",
        "model.gradient_checkpointing=true",
        "optim.schedule=cosine",
        "optim.warmup=0.5",
    ]
    run = train(small(*changes), tmp_path / "run")
    assert run.load().dtype == torch.float32  # master weights
    assert [row["learning_rate"] > 0 for row in run.metrics] == [False, True]  # the warm-up begins at 0


def test_no_steps_are_an_evaluation_alone(tmp_path: Path) -> None:
    finished = command("train", "quickstart", *SMALL, "training.steps=0", "--quiet", "--out", tmp_path / "run")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
    assert {row["step"] for row in RunDir(tmp_path / "run").evaluations} == {0}


def test_evaluation_is_not_moved_by_how_it_is_cut(tmp_path: Path) -> None:
    scores = []
    for rows in (3, 256):
        run = train(small("training.steps=1", f"rollout.max_batch={rows}"), tmp_path / str(rows))
        scores.append({k: v for k, v in run.evaluations[0].items() if k != "seconds"})
    assert scores[0] == scores[1]


def test_an_evaluation_that_was_cut_off_is_made_up(tmp_path: Path) -> None:
    """The run was killed after its last checkpoint, in its evaluation."""
    whole = train(small("evaluation.every=1"), tmp_path / "run")
    rows = whole.evaluations
    file = tmp_path / "run/evaluations.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] < 2))
    half = tmp_path / "run/evaluations/step-000002/ood.jsonl"
    half.write_text("".join(half.read_text().splitlines(keepends=True)[:3]))
    run = train(out=tmp_path / "run", resume=True)
    assert run.finished
    ignored = {"seconds"}
    assert [{k: row[k] for k in row.keys() - ignored} for row in run.evaluations] == [
        {k: row[k] for k in row.keys() - ignored} for row in rows
    ]


def test_a_run_without_benchmarks_writes_no_evaluation(tmp_path: Path) -> None:
    run = train(small("evaluation.sets={}", "method.name=sft"), tmp_path / "run")
    assert run.evaluations == []
    assert not (tmp_path / "run/evaluations").exists()


def test_hints_are_those_of_the_stages_steps(tmp_path: Path) -> None:
    """A second stage begins with long hints, as a first one does."""
    tree = {"extends": "quickstart", "stages": [{"method": {"name": "sft"}}, {"method": {"name": "uft"}}]}
    changes = [*SMALL, "evaluation.sets={}", "stages.0.training.steps=4", "data.limit=8"]
    run = train(load_recipe(tree, changes), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/rollouts/step-000005.jsonl").read_text().splitlines()]
    assert any(row["is_demo"] and row["truncated"] for row in rows)  # the hints
    assert run.metrics[4]["loss/sft_hint"] != 0
