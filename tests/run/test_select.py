"""The policy's own samples: before a stage, and from the rollouts that a run saved."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from srft import Run, load_recipe, train
from srft.cli import app
from srft.data import TEMPLATES, Problem, load_problems, render, resolve_path
from srft.data.files import read_jsonl
from srft.errors import SrftError
from srft.policy.load import ModelSettings, load_model
from srft.run.select import saved_candidates
from srft.training.run_dir import RunDir
from srft.training.settings import SelectionSettings

SMALL = [
    "training.steps=1", "training.prompts_per_step=4", "training.tokens_per_micro_batch=1500", "training.device=cpu",
    "rollout.n=4", "rollout.max_response_length=160", "evaluation.sets={}", "data.limit=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with rollouts and demonstrations."""
    return train(load_recipe("quickstart", SMALL), tmp_path_factory.mktemp("select") / "run")


def rollouts(run: Run) -> list[dict[str, Any]]:
    text = (run.directory.path / "rollouts/step-000001.jsonl").read_text()
    return [row for row in map(json.loads, text.splitlines()) if not row["is_demo"]]


def select(*arguments: str | Path) -> str:
    return CliRunner().invoke(app, ["select", *map(str, arguments)], catch_exceptions=False).output


def test_candidates_are_the_saved_rollouts(run: Run) -> None:
    candidates = saved_candidates(run.directory, SelectionSettings())
    rows = rollouts(run)
    assert len(rows) == 16
    assert [(c.text, c.is_correct, c.problem.answer) for c in candidates] == [
        (row["response"], row["reward"] == 1, row["answer"]) for row in rows
    ]


def test_saved_rollouts_are_scored_by_the_model_that_is_named(run: Run, tokenizer: Any) -> None:
    model = load_model(ModelSettings(path="srft:model")).eval()
    candidates = saved_candidates(run.directory, SelectionSettings(keep="entropy"), "srft:model")
    for candidate, row in list(zip(candidates, rollouts(run), strict=True))[:4]:
        prompt, _ = render(Problem(row["prompt"]), TEMPLATES["chat"], tokenizer)
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
        ids = ids if row["truncated"] else [*ids, tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt_ids, *ids]])).logits[0, len(prompt_ids) - 1 : -1]
        entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
        assert candidate.score.entropy == pytest.approx(float(entropy), rel=1e-3)
        assert candidate.score.rbf >= 1
    trained = saved_candidates(run.directory, SelectionSettings(keep="entropy"))  # by the newest checkpoint
    assert trained[0].score.entropy != candidates[0].score.entropy


def test_select_on_the_command_line(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    right = {row["response"] for row in rollouts(run) if row["reward"] == 1}
    assert right
    shown = select(run.directory.path, "--out", out)
    assert f"{len(right)} of 16 rollouts" in shown.replace("\n", " ")
    assert {p.demonstrations[0] for p in load_problems(str(out))} == right


def test_select_on_the_command_line_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(SrftError, match="no saved rollouts"):
        select(tmp_path, "--out", "x")
    with pytest.raises(SrftError, match="keep"):
        select(tmp_path, "--out", "x", "--keep", "best")
    assert not RunDir(tmp_path).metrics


def test_a_stage_learns_from_the_policys_own_samples(tmp_path: Path) -> None:
    words = [*SMALL, "method.name=sft", "data.selection.keep=noise", "data.selection.n=2", "data.selection.noise=0.3"]
    run = train(load_recipe("quickstart", words), tmp_path / "run")
    kept = load_problems(str(run.directory.selection(1)))
    expert = {p.prompt: p for p in load_problems("srft:arithmetic/train.jsonl", limit=8)}
    assert {p.prompt for p in kept} <= set(expert)
    assert all(p.answer == expert[p.prompt].answer for p in kept)
    assert any(p.demonstrations != expert[p.prompt].demonstrations for p in kept)
    assert 0 < run.metrics[0]["demo/reward"] <= 1
    rows = [json.loads(line) for line in (tmp_path / "run/rollouts/step-000001.jsonl").read_text().splitlines()]
    samples = {p.demonstrations[0] for p in kept}
    assert rows
    assert all(row["is_demo"] and row["response"] in samples for row in rows)


def test_pairs_of_the_data_are_told_where_samples_take_their_place(tmp_path: Path) -> None:
    rows = [
        row | {"rejected": "I do not know."} for _, row in read_jsonl(Path(resolve_path("srft:arithmetic/train.jsonl")))
    ]
    screen = Console(file=io.StringIO(), width=200)
    recipe = load_recipe("quickstart", ["method.name=rft", *SMALL, "logging.samples_every=0"])
    train(recipe, tmp_path / "run", data=rows[:8], console=screen)
    assert "the data's own pairs are not read" in screen.file.getvalue()  # type: ignore[attr-defined]
