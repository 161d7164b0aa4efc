"""Every benchmark's rows, as the hub and as the published files have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from srft.data.settings import PromptSettings
from srft.errors import SrftError
from srft.evaluation.benchmarks import BENCHMARKS, GROUPS, Choice, choose, to_problem
from srft.evaluation.compare import paper_tables
from srft.evaluation.load import load_benchmark
from srft.evaluation.protocol import PROTOCOLS, Protocol, resolve_protocol
from srft.evaluation.settings import EvaluationSettings
from srft.evaluation.task import choose_tasks
from srft.verify.verifier import Verifier
from tests.conftest import shared

# A made-up row each, as (benchmark, row, what the question holds, the right option or the answer).
HUB_ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("aime24", {"problem": "p", "answer": "033", "solution": "s"}, "p", "33"),
    ("aime25", {"problem": "p", "answer": "336^\\circ"}, "p", "336"),
    ("amc", {"problem": "p", "answer": 142.0}, "p", "142"),
    ("math500", {"problem": "p", "answer": "\\frac{1}{2}", "solution": "s"}, "p", "\\frac{1}{2}"),
    ("minerva", {"question": "p", "answer": "1.6"}, "p", "1.6"),
    ("minerva", {"problem": "p", "solution": "so \\boxed{1.6}"}, "p", "1.6"),
    ("olympiadbench", {"question": "p", "final_answer": ["$69$,$84$"]}, "p", "69,84"),
    ("gsm8k", {"question": "p", "answer": "one\n#### 1,200"}, "p", "1200"),
    ("arc-c", {"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}, "q", "b"),
    (
        "arc-c",
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q\n\nA) a\nB) b\nC) c\n"}],
         "reward_model": {"ground_truth": "C"}},
        "q", "c",
    ),
    (
        "gpqa-diamond",
        {"Question": "q", "Correct Answer": "r", "Incorrect Answer 1": "x", "Incorrect Answer 2": "y", "Incorrect Answer 3": "z"},
        "q", "r",
    ),
    ("mmlu-pro", {"question": "q", "options": ["a", "b", "c"], "answer": "C", "answer_index": 2}, "q", "c"),
    ("supergpqa", {"question": "q", "options": ["a", "b"], "answer": "b", "answer_letter": "B"}, "q", "b"),
    ("truthfulqa", {"question": "q", "mc1_targets": {"choices": ["t", "f"], "labels": [1, 0]}}, "q", "t"),
    ("truthfulqa", {"question": "q", "mc1_targets": {"f": 0, "t": 1}}, "q", "t"),
    ("headqa", {"qtext": "q", "ra": 2, "answers": [{"aid": 1, "atext": "a"}, {"aid": 2, "atext": "b"}]}, "q", "b"),
    ("headqa", {"qtext": "q", "ra": 2, "answers": {"aid": [1, 2], "atext": ["a", "b"]}}, "q", "b"),
    ("ifeval", {"key": 1, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}, "p", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "question", "right"), HUB_ROWS, ids=[n for n, *_ in HUB_ROWS])
def test_a_row_becomes_a_problem(name: str, row: dict[str, Any], question: str, right: str) -> None:
    problem = to_problem(name, row, 0, "row 0", seed=0)
    assert isinstance(problem.prompt, str)
    assert problem.prompt.startswith(question)
    assert problem.grader == BENCHMARKS[name].grader
    if problem.grader == "choice":
        options = problem.metadata["options"]
        assert options["ABCDEFGHIJKLMNOP".index(problem.answer)] == right
        assert f"{problem.answer}. {right}" in problem.prompt.split("\n")
    else:
        assert problem.answer == right


def test_every_reader_of_rows_has_a_row_above() -> None:
    listed = {BENCHMARKS[name].adapt for name, *_ in HUB_ROWS}
    assert {benchmark.adapt for benchmark in BENCHMARKS.values()} == listed


def test_options_are_shuffled_by_seed_and_row() -> None:
    row = {"question": "q", "options": list("abcdefgh"), "answer": "C"}
    problems = [to_problem("mmlu-pro", row, i, "", seed) for seed in (0, 1) for i in range(20)]
    assert len({p.prompt for p in problems}) > 30
    assert len({p.answer for p in problems}) > 4
    assert problems[3] == to_problem("mmlu-pro", row, 3, "", 0)


@pytest.mark.parametrize("name", [n for n in BENCHMARKS if n not in ("gpqa-diamond", "supergpqa")])
def test_the_published_files_load(name: str) -> None:
    file = shared(f"data/{BENCHMARKS[name].file}")
    loaded = load_benchmark(Choice(name), data_dir=file.parent)
    problems, source = loaded.problems, loaded.source
    assert len(problems) == source.rows == BENCHMARKS[name].rows
    assert len({p.prompt for p in problems}) > 0.95 * len(problems)
    assert all(p.answer or name == "ifeval" for p in problems)
    assert len(source.sha256) == 64


@pytest.mark.parametrize("name", ["aime24", "aime25", "amc", "math500", "minerva", "olympiadbench", "arc-c"])
def test_ground_truths_grade_as_right(name: str) -> None:
    file = shared(f"data/{BENCHMARKS[name].file}")
    problems = load_benchmark(Choice(name, 60), data_dir=file.parent).problems
    with Verifier(workers=1) as verifier:
        bad = verifier.self_check(problems)
    assert len(bad) <= 3, [p.answer for p in bad]


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    rows = [json.dumps({"problem": f"p{i}", "answer": "1"}) for i in range(30)]
    file = tmp_path / "aime24.jsonl"
    file.write_text("\n".join(rows * 32))  # as in files made for verl
    with pytest.raises(SrftError, match="has 30 problems, found 960"):
        load_benchmark(Choice("aime24"), data_dir=tmp_path)
    file.write_text("\n".join([*rows[:-1], '{"problem": "p"}']))
    with pytest.raises(SrftError, match="row 29: the row does not have aime24's columns"):
        load_benchmark(Choice("aime24"), data_dir=tmp_path)
    file.write_text("{")
    with pytest.raises(SrftError, match="malformed JSON"):
        load_benchmark(Choice("aime24"), data_dir=tmp_path)
    with pytest.raises(SrftError, match=r"gpqa_diamond\.csv"):  # the hub is off in tests
        load_benchmark(Choice("gpqa-diamond"), data_dir=tmp_path)


def test_benchmarks_are_chosen_by_words() -> None:
    assert choose("gsm8k:200, math500", 5) == [Choice("gsm8k", 200), Choice("math500", 5)]
    assert choose("gsm8k:200x4,math500x2", 5) == [Choice("gsm8k", 200, None, 4), Choice("math500", 5, None, 2)]
    assert choose(["gsm8k:200x4", "math500x2"], 5) == choose("gsm8k:200x4,math500x2", 5)
    assert [c.name for c in choose("srft")] == list(GROUPS["srft"])
    assert choose("srft:arithmetic/test.jsonl:4") == [Choice("test", 4, "srft:arithmetic/test.jsonl")]
    for text, words in {"gsm9k": "Did you mean 'gsm8k'", "amc,amc": "named twice", "": "no benchmark"}.items():
        with pytest.raises(SrftError, match=words):
            choose(text)


def test_settings_name_benchmarks_and_sets() -> None:
    sets = {"mine": {"path": "srft:arithmetic/test.jsonl", "limit": 3, "split": "dev", "options": {"name": "x"}}}
    settings = EvaluationSettings.model_validate({"benchmarks": "gsm8k:7, math500", "sets": sets, "limit": 5})
    assert settings.benchmarks == ["gsm8k:7", "math500"]
    mine = Choice("mine", 3, "srft:arithmetic/test.jsonl", None, "dev", {"name": "x"})
    assert choose_tasks(settings) == [Choice("gsm8k", 7), Choice("math500", 5), mine]
    assert choose_tasks(EvaluationSettings()) == []
    with pytest.raises(SrftError, match="Did you mean 'gsm8k'"):
        choose_tasks(EvaluationSettings(benchmarks=["gsm9k"]))
    with pytest.raises(SrftError, match=r"evaluation\.sets\.gsm8k: 'gsm8k' is named twice"):
        choose_tasks(EvaluationSettings.model_validate({"benchmarks": "gsm8k", "sets": {"gsm8k": sets["mine"]}}))


def protocol(name: str, **changes: Any) -> Protocol:
    return resolve_protocol(EvaluationSettings.model_validate({"protocol": name, "sampling": changes}))


def test_protocols_are_the_papers() -> None:
    srft, psft = PROTOCOLS["srft"].sampling, PROTOCOLS["psft"].sampling
    assert (srft.temperature, srft.top_p, srft.max_response_length) == (0.6, 1.0, 8192)
    assert (psft.temperature, psft.top_p, psft.max_response_length) == (0.7, 0.95, 10240)
    n = {name: tuple(protocol(p).sampling_of(Choice(name)).n for p in ("srft", "psft")) for name in BENCHMARKS}
    assert n["aime24"] == n["aime25"] == n["amc"] == (32, 32)
    assert n["math500"] == n["arc-c"] == n["gpqa-diamond"] == n["ifeval"] == (1, 8)
    assert n["mmlu-pro"] == n["supergpqa"] == n["headqa"] == (1, 1)
    assert protocol("srft").sampling_of(Choice("mine", path="mine.jsonl")).n == 1
    assert protocol("psft").sampling_of(Choice("ifeval")).max_response_length == 4096
    assert protocol("psft", max_response_length=100).sampling_of(Choice("ifeval")).max_response_length == 100
    assert protocol("srft", n=4).sampling_of(Choice("aime24", samples=2)).n == 2
    assert protocol("srft", n=4).sampling_of(Choice("aime24")).n == 4
    for change in ({"temperature": -1.0}, {"n": 0}, {"top_p": 0.0}, {"max_length": 8}):
        with pytest.raises(ValidationError):
            protocol("srft", **change)
    with pytest.raises(ValidationError):
        EvaluationSettings.model_validate({"template": "qwen"})


def test_settings_go_before_the_callers_values_and_those_before_the_protocols() -> None:
    settings = EvaluationSettings(protocol="psft")
    training = resolve_protocol(settings, prompts=PromptSettings(template="chat"), max_response_length=64)
    assert (training.template, training.sampling.max_response_length, training.sampling.temperature) == (
        "chat",
        64,
        0.7,
    )
    asked = {"template": "none", "sampling": {"max_response_length": 32, "temperature": 0.0}, "grader": "oat"}
    changed = resolve_protocol(
        settings.model_validate(asked), prompts=PromptSettings(template="chat"), max_response_length=64
    )
    assert (changed.template, changed.sampling.max_response_length, changed.sampling.temperature) == ("none", 32, 0.0)
    assert (changed.grader, changed.extract) == ("oat", "boxed")


def test_the_papers_tables_are_whole() -> None:
    for table in paper_tables().values():
        for row, values in table["rows"].items():
            assert len(values) == len(table["columns"]), row
    means = {"srft-table1": {"SFT→RL": 52.5, "RL": 49.4}, "psft-table1": {"Qwen2.5-7B-Instruct PSFT": 46.98}}
    for name, rows in means.items():  # the papers' own averages
        for row, mean in rows.items():
            values = paper_tables()[name]["rows"][row]
            assert sum(values) / len(values) == pytest.approx(mean, abs=0.06)
    assert sum(paper_tables()["srft-table2"]["rows"]["SRFT"][:5]) / 5 == pytest.approx(59.5, abs=0.06)
    known = {*BENCHMARKS, "alpaca-eval-lc", "alpaca-eval-wr", "arena-hard", "mt-bench-turn1", "mt-bench-turn2"}
    assert {column for table in paper_tables().values() for column in table["columns"]} <= known
