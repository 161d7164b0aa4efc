"""What a run is rewarded and measured by: checked before it starts, and followed through its steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from srft import SrftError, load_recipe, train
from srft.run.plan import Plan, make_plan
from srft.run.preview import show_plan
from srft.verify import Verifier
from tests.helpers import blocks

UNBOXED = {"prompt": "2 + 3?", "completion": "2 + 3 = 5.\nThe answer is 5.", "answer": "5"}
BOXED = {**UNBOXED, "completion": "\\boxed{5}"}
SMALL = [
    "training.device=cpu", "training.steps=2", "training.prompts_per_step=2", "rollout.n=3",
    "rollout.max_response_length=16", "evaluation.sets={}", "verify.workers=1",
]  # fmt: skip


def rows(tmp_path: Path, *items: dict[str, Any], name: str = "data.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def plan_of(data: Path, *overrides: str, recipe: str = "quickstart") -> Plan:
    chosen = load_recipe(recipe, [*SMALL, f"data.path={data}", *overrides])
    with Verifier.of(chosen.verify) as verifier:
        return make_plan(chosen, verifier)


def test_demonstrations_that_all_grade_wrong_are_an_error(tmp_path: Path) -> None:
    data = rows(tmp_path, *[{**UNBOXED, "prompt": f"{i} + {5 - i}?"} for i in range(4)])
    with pytest.raises(SrftError) as error:
        plan_of(data)
    told = str(error.value)
    assert "none of 4 demonstrations grades right (grader math, the boxed answer); in 4 no answer can be read" in told
    assert "with verify.extract: last 4 of 4 would be right" in told
    assert "does not ask for \\boxed{}" in told
    assert str(data) in told
    assert plan_of(data, "verify.extract=last").checks == [
        "4 of 4 demonstrations grade right (grader math, the boxed answer, else the last one stated)"
    ]


def test_demonstrations_without_the_thought_that_the_prompt_opens(tmp_path: Path) -> None:
    with pytest.raises(SrftError, match=r"(?s)opens <think> and none of them closes it: .*data\.template: qwen-math"):
        plan_of(
            rows(tmp_path, BOXED),
            "data.template=srft",
            "data.max_prompt_length=700",
            "model.config.max_position_embeddings=1024",
            "verify.extract=last",
        )


def test_fewer_than_half_right_is_a_warning_and_shown_before_a_run(tmp_path: Path) -> None:
    data = rows(tmp_path, BOXED, *[UNBOXED] * 3)
    plan = plan_of(data)
    assert plan.checks[0].startswith("Warning: only 1 of 4 demonstrations grade right")
    assert "last 4 of 4 would be right" in plan.checks[0]
    console = Console(record=True, width=300)
    show_plan(plan.recipe, None, console)
    assert plan.checks[0] in console.export_text()
    assert not plan_of(rows(tmp_path, BOXED, UNBOXED)).checks[0].startswith("Warning")


def test_sft_alone_only_reports_how_its_demonstrations_grade(tmp_path: Path) -> None:
    plan = plan_of(rows(tmp_path, UNBOXED, UNBOXED), "method.name=sft")
    assert plan.checks[0].startswith("Warning: only 0 of 2 demonstrations")
    assert plan_of(rows(tmp_path, {"prompt": "Say hello.", "completion": "Hello!"}), "method.name=sft").checks == []


def test_a_prompt_that_does_not_ask_for_the_box_is_told(tmp_path: Path) -> None:
    data = rows(tmp_path, {"prompt": "2 + 3?", "answer": "5"})
    (line,) = plan_of(data, "method.name=grpo").checks
    assert "only an answer in \\boxed{} counts, and the prompt asks for none" in line
    assert plan_of(data, "method.name=grpo", "verify.extract=last").checks == []
    asking = plan_of(data, "method.name=grpo", "data.template=qwen-math")
    assert asking.checks == []


def test_the_check_is_bounded(tmp_path: Path) -> None:
    data = rows(tmp_path, *[{**BOXED, "prompt": f"{i} + {5 - i}?"} for i in range(9)])
    assert plan_of(data, "verify.check_answers=3").checks[0].startswith("3 of 3 demonstrations")
    assert plan_of(data, "verify.check_answers=0").checks == []


def test_an_evaluation_set_without_answers_is_an_error(tmp_path: Path) -> None:
    data = rows(tmp_path, BOXED)
    test = rows(tmp_path, {"prompt": "2 + 3?", "answer": "5"}, {"prompt": "1 + 3?"}, name="test.jsonl")
    changes = [f"evaluation.sets={{mine: {{path: {test}}}}}"]
    with pytest.raises(SrftError, match="evaluation mine: 1 of 2 problems have no answer") as error:
        plan_of(data, *changes)
    assert "test.jsonl:2" in str(error.value)
    plan_of(data, *changes, "verify.grader={mine: format}")  # a form needs no answer
    complete = rows(tmp_path, {"prompt": "2 + 3?", "answer": "5"}, name="test.jsonl")
    assert plan_of(data, *changes).checks[1:] == ["1 of 1 answers of mine grade right (grader math, the boxed answer)"]
    rows(tmp_path, {"prompt": "2 + 3?", "answer": "\\notacommand{"}, name=complete.name)
    with pytest.raises(SrftError, match="no answer of 'mine' grades as equal to itself"):
        plan_of(data, *changes)


def test_a_set_of_demonstrations_without_answers_is_measured_by_its_loss(tmp_path: Path) -> None:
    data = rows(tmp_path, {"prompt": "Say hello.", "completion": "Hello!"})
    sets = f"evaluation.sets={{mine: {{path: {data}}}}}"
    plan = plan_of(data, sets, "method.name=sft")
    assert (plan.checks, plan.evaluations[0].groups, len(plan.evaluations[0].held_out)) == ([], [], 1)
    with pytest.raises(SrftError, match="no answer to compare with"):
        plan_of(data, sets.replace("}}", ", measure: both}}"), "method.name=sft")
    both = plan_of(data, sets, "method.name=sft", "verify.grader=format").evaluations[0]
    assert (len(both.groups), len(both.held_out)) == (1, 1)


def test_training_and_evaluation_read_the_same_answer(tmp_path: Path) -> None:
    data, sets = rows(tmp_path, BOXED), "evaluation.sets={mine: {path: srft:arithmetic/test.jsonl, limit: 2}}"
    extract = {change: plan_of(data, sets, *change).evaluations[0].extract for change in [
        (), ("verify.extract=last",), ("verify.extract=last", "evaluation.extract=boxed"), ("evaluation.extract=last",),
    ]}  # fmt: skip
    assert list(extract.values()) == ["boxed", "last", "boxed", "last"]


def test_a_grader_by_data_set(tmp_path: Path) -> None:
    data = rows(
        tmp_path,
        {**BOXED, "data_source": "arithmetic"},
        {"prompt": "A or B?", "completion": "\\boxed{B}", "answer": "B", "data_source": "letters"},
    )
    grader = "verify.grader={letters: choice, mine: exact}"
    sets = "evaluation.sets={mine: {path: srft:arithmetic/test.jsonl, limit: 2}}"
    plan = plan_of(data, grader, sets)
    assert [p.problem.grader for p in plan.prompts] == ["math", "choice"]
    assert plan.evaluations[0].grader == "exact"
    assert [p.problem.grader for p in plan_of(data, "verify.grader=oat").prompts] == ["oat", "oat"]
    with pytest.raises(SrftError, match="is called 'leters'") as error:
        plan_of(data, "verify.grader={leters: choice}")
    assert "letters" in error.value.fix
    with pytest.raises(SrftError, match="no grader 'maths'"):
        plan_of(data, "verify.grader=maths")


def test_a_stage_scores_as_the_others() -> None:
    stages = {"extends": "quickstart", "stages": [{}, {"verify": {"extract": "last"}}]}
    with pytest.raises(SrftError, match="stage 2: verify: a stage has no rewards of its own"):
        load_recipe(stages)
    assert load_recipe({**stages, "stages": [{}, {"verify": {"grader": "oat"}}]}).stages[1].verify.grader == "oat"


def test_a_broken_function_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def score(completions, level, **columns):\n    return [0.0]\n")
    with pytest.raises(SrftError, match="level"):
        train(
            load_recipe(
                "quickstart-grpo",
                [*SMALL, f"data.path={rows(tmp_path, BOXED)}", f"verify.function={tmp_path}/own.py:score"],
            ),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_grpo_without_answers_by_several_functions(tmp_path: Path) -> None:
    """No row has an answer; one function does not apply to every response, and one prompt no function applies to."""
    calls: list[int] = []

    def length(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        calls.append(len(completions))
        return [None if "no reward" in str(p) else -len(c) / 100 for p, c in zip(prompts, completions, strict=True)]

    def digits(completions: list[Any], tag: list[str], **columns: Any) -> list[float | None]:
        return [
            float(any(map(str.isdigit, c))) if source == "sums" else None
            for c, source in zip(completions, tag, strict=True)
        ]

    data = rows(
        tmp_path,
        {"prompt": "2 + 3?", "tag": "sums"},
        {"prompt": "no reward for this?", "tag": "others"},
    )
    recipe = load_recipe("quickstart-grpo", [*SMALL, f"data.path={data}", "logging.rollouts=true"])
    run = train(recipe, tmp_path / "run", rewards=[length, (digits, 2.0)])
    assert run.finished
    assert calls == [2, 6, 6]  # before the run, then once a step
    for row in run.metrics:
        assert row["unscored"] == 0.5
        assert row["reward"] == pytest.approx(row["reward/length"] + 2 * row["reward/digits"])
    saved = [json.loads(line) for line in (tmp_path / "run/rollouts/step-000001.jsonl").read_text().splitlines()]
    assert {tuple(row["rewards"].values()) for row in saved if "no reward" in row["prompt"]} == {(None, None)}
    with pytest.raises(SrftError, match="'length' names no function"):
        train(out=tmp_path / "run", resume=True)


def test_checks_grade_what_is_trained_on(tmp_path: Path) -> None:
    """A demonstration whose answer is cut off at the length limit grades as it is learnt."""
    data = rows(tmp_path, {**BOXED, "completion": "1 " * 40 + "\\boxed{5}"}, BOXED)
    plan = plan_of(data, "rollout.max_response_length=20")
    assert plan.checks[0].startswith("1 of 2 demonstrations grade right")
    with pytest.raises(SrftError, match="1 of them are cut before their end: raise rollout"):
        plan_of(rows(tmp_path, {**BOXED, "completion": "1 " * 40 + "\\boxed{5}"}), "rollout.max_response_length=20")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("docs/rewards.md")
    exec(compile(block, "docs/rewards.md", "exec"), {})
    assert 0 <= float(capsys.readouterr().out) <= 1
