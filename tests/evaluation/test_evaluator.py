"""The evaluator as training uses it: on a live policy, continued, scored by the same metrics as `srft eval`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from srft.data.files import read_whole_rows
from srft.data.problem import Problem
from srft.data.settings import PromptSettings
from srft.errors import SrftError
from srft.evaluation.evaluator import Evaluator
from srft.evaluation.metrics import score
from srft.evaluation.records import RecordFile
from srft.evaluation.settings import EvaluationSettings
from srft.evaluation.task import EvaluationTask, make_tasks
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, pad_token_id
from srft.rollout.collector import Collector
from srft.rollout.engine import SamplerSettings, make_sampler
from srft.verify.verifier import Grade, Verdict, Verifier

TEST = {"path": "srft:arithmetic/test.jsonl"}


@pytest.fixture
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=1) as open_verifier:
        yield open_verifier


def tasks(tokenizer: Any, **settings: Any) -> list[EvaluationTask]:
    values = {"sets": {"test": {**TEST, "limit": 6}}, "sampling": {"n": 3, "temperature": 1.0}, **settings}
    return make_tasks(
        EvaluationSettings.model_validate(values),
        tokenizer,
        prompts=PromptSettings(template="chat"),
        max_response_length=24,
        seed=3,
    )


def evaluator(model: Any, tokenizer: Any, verifier: Verifier, chosen: list[EvaluationTask], **more: Any) -> Evaluator:
    policy = Policy(model)
    sampler = make_sampler(SamplerSettings(), policy, ModelSettings(path="srft:model"), tokenizer, max_model_len=256)
    options = {"seed_purpose": "evaluation {}", "policy": None, "pad_token_id": pad_token_id(tokenizer), **more}
    return Evaluator(
        chosen,
        Collector(sampler, verifier.grade, tokenizer, 3, accuracy=verifier.accuracy),
        Accelerator(cpu=True),
        **options,
    )


def test_tasks_hold_sets_and_benchmarks_alike(tokenizer: Any) -> None:
    (task,) = tasks(tokenizer)
    assert (task.name, task.params.n, task.params.max_response_length, task.extract) == ("test", 3, 24, "boxed")
    assert [group.group_id for group in task.groups] == list(range(6))
    assert (task.source.rows, task.benchmark) == (200, None)
    assert make_tasks(EvaluationSettings(), tokenizer) == []
    (by_name,) = tasks(tokenizer, sets={}, benchmarks="srft:arithmetic/test.jsonl:6x3")
    assert by_name == task
    (single,) = tasks(tokenizer, sampling={})
    assert (single.params.n, single.params.temperature) == (1, 0.6)
    with pytest.raises(SrftError, match="prompts are longer than 4 tokens"):
        make_tasks(EvaluationSettings.model_validate({"sets": {"test": TEST}}), tokenizer, max_prompt_length=4)


def test_a_live_policy_is_scored_and_continues(model: Any, tokenizer: Any, verifier: Verifier, tmp_path: Path) -> None:
    chosen, folder = tasks(tokenizer), tmp_path / "step-000002"
    model.train()
    whole = evaluator(model, tokenizer, verifier, chosen, policy=Policy(model)).run(folder)
    assert model.training
    records = read_whole_rows(folder / "test.jsonl")
    assert [(r["problem"], r["sample"]) for r in records] == [(p, s) for p in range(6) for s in range(3)]
    assert set(whole) == {"test"}
    assert {"avg", "pass@1", "pass@3", "maj@3", "truncated", "response_length", "entropy"} <= set(whole["test"])
    assert whole["test"] == score(RecordFile(folder, "test", 3).read(), 3)
    file = folder / "test.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:7]) + lines[7][:20])  # as a kill leaves it: two groups and a part of the third
    again = evaluator(model, tokenizer, verifier, chosen, policy=Policy(model)).run(folder)["test"]
    for name, value in whole["test"].items():
        assert again[name] == pytest.approx(value, rel=1e-4), name
    assert len(read_whole_rows(file)) == 18


def test_draws_depend_on_seed_purpose_and_problem_alone(
    model: Any, tokenizer: Any, verifier: Verifier, tmp_path: Path
) -> None:
    chosen = tasks(tokenizer)
    whole = evaluator(model, tokenizer, verifier, chosen).run(tmp_path / "whole")
    parts = evaluator(model, tokenizer, verifier, chosen, max_batch=4).run(tmp_path / "parts")
    assert parts == whole
    evaluator(model, tokenizer, verifier, chosen, seed_purpose="evaluation/{}").run(tmp_path / "other")
    texts = [[r["response"] for r in read_whole_rows(tmp_path / f / "test.jsonl")] for f in ("whole", "parts", "other")]
    assert texts[0] == texts[1] != texts[2]


def test_another_evaluation_in_the_folder_is_refused(
    model: Any, tokenizer: Any, verifier: Verifier, tmp_path: Path
) -> None:
    evaluator(model, tokenizer, verifier, tasks(tokenizer)).run(tmp_path)
    colder = tasks(tokenizer, sampling={"n": 3, "temperature": 0.5})
    with pytest.raises(SrftError, match=r"test with temperature 1\.0, not 0\.5"):
        evaluator(model, tokenizer, verifier, colder).run(tmp_path)


def test_ifeval_keeps_what_its_checks_say(
    model: Any, tokenizer: Any, verifier: Verifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grade(items: list[tuple[Problem, str]]) -> list[Grade]:
        details = {"strict": False, "instructions_loose": [True, True], "instructions_strict": [True, False]}
        return [Grade(Verdict.RIGHT, 1.0, details) for _ in items]

    monkeypatch.setattr("srft.evaluation.ifeval.grade", grade)
    monkeypatch.setattr("srft.evaluation.ifeval.check", lambda problems: None)
    problem = Problem("p", grader="ifeval", metadata={"instruction_id_list": [], "kwargs": []})
    loaded = "srft.evaluation.load.load_problems"
    monkeypatch.setattr(loaded, lambda *a, **k: [problem, problem])
    scores = evaluator(model, tokenizer, verifier, tasks(tokenizer)).run(tmp_path)["test"]
    assert (scores["avg"], scores["instruction_strict"], scores["prompt_strict"]) == (1, 0.5, 0)
    assert "maj@1" not in scores
    assert read_whole_rows(tmp_path / "test.jsonl")[0]["instructions_strict"] == [True, False]
