"""The loss of held-out demonstrations: that of transformers, however it is shared out, with or without answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from srft.data.settings import PromptSettings
from srft.data.template import TEMPLATES, render
from srft.errors import SrftError
from srft.evaluation.metrics import held_out_loss
from srft.evaluation.report import show
from srft.evaluation.run import evaluate
from srft.evaluation.settings import EvaluationSettings
from srft.evaluation.task import EvaluationTask, make_tasks
from srft.evaluation.token_statistics import summed_loss
from srft.policy.forward import Policy
from srft.recipe.load import load_evaluation
from srft.verify.verifier import Verifier
from tests.evaluation.test_evaluator import evaluator

TEST = {"path": "srft:arithmetic/test.jsonl", "limit": 5}


@pytest.fixture
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=1) as open_verifier:
        yield open_verifier


def tasks(tokenizer: Any, held_out: bool = False, length: int = 160, **one: Any) -> list[EvaluationTask]:
    settings = EvaluationSettings.model_validate({"sets": {"test": {**TEST, **one}}})
    prompts = PromptSettings(template="chat")
    return make_tasks(settings, tokenizer, prompts=prompts, max_response_length=length, held_out_loss=held_out)


def transformers_loss(model: Any, tokenizer: Any, task: EvaluationTask) -> float:
    """Mean over tokens, one sequence at a time, by the model's own loss on its labels."""
    total, count = 0.0, 0
    for problem in task.problems:
        text, _ = render(problem, TEMPLATES["chat"], tokenizer)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = tokenizer(problem.demonstrations[0], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        labels = torch.tensor([[-100] * len(prompt) + answer])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
        total, count = total + float(loss) * len(answer), count + len(answer)
    return total / count


def test_it_is_the_loss_of_transformers(model: Any, tokenizer: Any, verifier: Verifier, tmp_path: Path) -> None:
    chosen = tasks(tokenizer, measure="loss")
    policy = Policy(model.train())
    scores = evaluator(model, tokenizer, verifier, chosen, scorer=policy).run(tmp_path)["test"]
    expected = transformers_loss(model.eval(), tokenizer, chosen[0])
    assert scores["demo_nll"] == pytest.approx(expected, rel=1e-5)
    assert scores["demo_perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    assert (scores["demonstrations"], scores["problems"]) == (5, 5)
    assert "avg" not in scores  # nothing was sampled
    shares = [summed_loss(policy, chosen[0].held_out[rank::3], 0) for rank in range(3)]  # of three processes
    assert held_out_loss(shares)["demo_nll"] == pytest.approx(expected, rel=1e-5)


def test_which_sets_are_measured(tokenizer: Any) -> None:
    (plain,) = tasks(tokenizer)
    assert (len(plain.groups), len(plain.held_out)) == (5, 0)
    (both,) = tasks(tokenizer, held_out=True)  # of a method that learns from demonstrations
    assert (len(both.groups), len(both.held_out)) == (5, 5)
    assert all(not group.prompt.demonstrations for group in both.groups)
    (loss,) = tasks(tokenizer, measure="loss")
    assert (len(loss.groups), len(loss.held_out)) == (0, 5)
    (answers,) = tasks(tokenizer, held_out=True, measure="answers")
    assert answers == plain
    (cut,) = tasks(tokenizer, held_out=True, length=7)  # as in training
    assert {len(prompt.demonstrations[0].token_ids) for prompt in cut.held_out} == {7}


def test_demonstrations_without_answers_are_enough_and_answers_alone_are_not(tokenizer: Any, tmp_path: Path) -> None:
    row, file = {"prompt": "Say a."}, tmp_path / "set.jsonl"
    file.write_text(json.dumps({**row, "completion": "a"}) + "\n")
    (task,) = tasks(tokenizer, path=str(file), measure="loss")
    assert len(task.held_out) == 1
    file.write_text(json.dumps({**row, "answer": "a"}) + "\n")
    with pytest.raises(SrftError, match="no demonstrations") as error:
        tasks(tokenizer, path=str(file), measure="loss")
    assert error.value.where == "evaluation.sets.test.measure"
    (task,) = tasks(tokenizer, held_out=True, path=str(file))  # where nobody asked for it there is none
    assert not task.held_out


@pytest.mark.parametrize("row", [{"prompt": "Say a.", "completion": "a"}, {"text": "a b"}], ids=["chat", "text"])
def test_what_cannot_be_graded_is_measured_by_its_loss(tokenizer: Any, tmp_path: Path, row: dict[str, str]) -> None:
    (tmp_path / "set.jsonl").write_text(json.dumps(row) + "\n")
    (task,) = tasks(tokenizer, held_out=True, path=f"{tmp_path}/set.jsonl")
    assert (len(task.groups), len(task.held_out)) == (0, 1)
    if "text" in row:
        with pytest.raises(SrftError, match="plain `text` has no prompt to answer"):
            tasks(tokenizer, held_out=True, path=f"{tmp_path}/set.jsonl", measure="answers")


def test_srft_eval_reports_it(tmp_path: Path) -> None:
    sets = ["sets.loss={path: 'srft:arithmetic/test.jsonl', limit: 3, measure: loss}"]
    sets += ["sets.both={path: 'srft:arithmetic/ood.jsonl', limit: 3, measure: both}"]
    changes = ["template=chat", "sampling.max_response_length=24", "statistics=false"]
    recipe = load_evaluation("srft:model", [*sets, *changes])
    for _ in range(2):  # the second time without sampling
        results = evaluate(recipe, out=tmp_path / "evaluation")
        assert set(results["benchmarks"]["loss"]) >= {"demo_nll", "demo_perplexity", "demonstrations"}
        assert {"avg", "demo_nll"} <= set(results["benchmarks"]["both"])
    console = Console(file=StringIO(), width=200)
    show(console, results)
    text = console.file.getvalue()
    assert "loss of demonstrations" in text
    assert f"{results['benchmarks']['loss']['demo_nll']:.4f}" in text
    assert "demo_nll" in (tmp_path / "evaluation/results.csv").read_text()
