"""Our scores against lm-eval's own on the same responses, and the alignment tax through it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from srft.cli import app
from srft.data.problem import Problem
from srft.errors import SrftError
from srft.evaluation import ifeval
from srft.evaluation.benchmarks import Choice
from srft.evaluation.external.tax import TAXES, alignment_tax, run_tasks
from srft.evaluation.load import load_benchmark
from srft.verify.verifier import Verdict, Verifier
from tests.conftest import shared


def needs_lm_eval() -> None:
    pytest.importorskip("lm_eval", reason="needs lm-eval (extra `lm-eval`)")


def test_an_unknown_task_and_a_missing_package_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SrftError, match="Did you mean 'gsm8k'"):
        alignment_tax("srft:model", ["gsm9k"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SrftError, match="lm-eval"):
        alignment_tax("srft:model", ["gsm8k"])
    with pytest.raises(SrftError, match="lm_eval"):
        ifeval.check([])


def test_ifeval_is_lm_evals_own() -> None:
    needs_lm_eval()
    row = {
        "key": 1, "prompt": "p", "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"],
        "kwargs": [{"num_words": None}, {}],
    }  # fmt: skip
    both = ifeval.grade_one(row, "<<A title>>\nno commas here")
    assert (both.reward, both.verdict, both.details["strict"]) == (1.0, Verdict.RIGHT, True)
    assert both.details["instructions_loose"] == [True, True]
    one = ifeval.grade_one(row, "<<A title>>\none, comma\n<<A title>>\nand, more\nof, them")
    assert (one.reward, one.details["instructions_loose"]) == (0.0, [False, True])
    loose = ifeval.grade_one(row, "Sure, here it is:\n<<A title>>\nno commas here")
    assert (loose.reward, loose.details["strict"]) == (1.0, False)
    assert ifeval.grade_one(row, "<think>\nwell, so</think>\n<<A title>>").details["strict"]
    assert ifeval.grade([(Problem("p", metadata=row), "<think>\nnever ends")])[0].reward == 0


def test_gsm8k_is_scored_as_lm_eval_scores_it() -> None:
    needs_lm_eval()
    from lm_eval.api.model import LM

    file = shared("data/gsm8k_test.jsonl")
    problems = load_benchmark(Choice("gsm8k", 40), data_dir=file.parent).problems
    texts = [f"Let me see.\nThe answer is \\boxed{{{_disturbed(p.answer, i)}}}." for i, p in enumerate(problems)]

    class Canned(LM):
        """Answers the documents in their order."""

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            return [texts[request.doc_id] for request in requests]

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    theirs = run_tasks(Canned(), ["gsm8k"], limit=40, data_dir=file.parent)["gsm8k"]
    with Verifier(workers=1) as verifier:
        ours = [g.reward for g in verifier.grade(list(zip(problems, texts, strict=True)))]
    assert theirs["documents"] == 40
    assert 100 * sum(ours) / 40 == pytest.approx(theirs["score"]) == pytest.approx(100 * 27 / 40, abs=3)


def _disturbed(answer: str, i: int) -> str:
    return f"{int(answer):,}" if i % 3 == 0 else answer if i % 3 == 1 else str(int(answer) + 1)


def test_alignment_tax_of_the_embedded_model(tmp_path: Path) -> None:
    needs_lm_eval()
    data = shared("data/mmlu.zip").parent
    result = CliRunner().invoke(
        app,
        ["alignment-tax", "srft:model", "--tasks", "truthfulqa", "--limit", "4", "--data-dir", str(data),
         "--out", str(tmp_path)],
        catch_exceptions=False,
    )  # fmt: skip
    assert "truthfulqa_mc1" in result.output
    result = json.loads((tmp_path / "alignment-tax.json").read_text())
    assert result["tasks"]["truthfulqa"]["documents"] == 4
    assert result["lm_eval"]


def test_local_files_have_lm_evals_columns_and_counts() -> None:
    data = shared("data/mmlu.zip").parent
    counts = {"mmlu": (57, 14042), "cmmlu": (67, 11582), "gsm8k": (1, 1319), "truthfulqa": (1, 817)}
    for name, (tasks, documents) in counts.items():
        tax = TAXES[name]
        assert tax.file
        assert tax.rows
        result = tax.rows(data / tax.file)
        assert len(result) == tasks
        tested = [row for splits in result.values() for row in splits.get("test", splits.get("validation", ()))]
        assert len(tested) == documents
    assert _subject(TAXES["mmlu"].rows, data / "mmlu.zip")["answer"] in range(4)  # type: ignore[arg-type]


def _subject(rows: Any, file: Path) -> Any:
    return rows(file)["mmlu_flan_n_shot_generative_anatomy"]["test"][0]
