"""`srft eval` from end to end on the embedded model: killed and resumed, by two processes, compared, reported."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from srft.cli import app
from srft.data.files import write_rows
from srft.data.problem import Problem
from srft.errors import SrftError
from srft.evaluation.records import RecordFile
from srft.evaluation.run import evaluate as run
from srft.evaluation.settings import EvaluationRecipe
from srft.verify.verifier import Verifier
from tests.conftest import shared

TEST, OOD = "srft:arithmetic/test.jsonl", "srft:arithmetic/ood.jsonl"
SAMPLING = {"max_response_length": 64, "temperature": 1.0, "n": 4}
SETTINGS = ["template=chat", *(f"sampling.{k}={v}" for k, v in SAMPLING.items()), "max_batch=8"]


def evaluate(
    out: Path, benchmarks: str = f"{TEST}:6", against: str = "", sampling: Any = None, **more: Any
) -> dict[str, Any]:
    values = {
        "benchmarks": benchmarks,
        "template": "chat",
        "sampling": {**SAMPLING, **(sampling or {})},
        "max_batch": 8,
        **more,
    }
    recipe = EvaluationRecipe.model_validate({"model": {"path": "srft:model"}, **values})
    return run(recipe, out=out, against=against)


def eval_command(out: Path, benchmarks: str) -> list[str]:
    return ["-m", "srft", "eval", "srft:model", *SETTINGS, "--benchmarks", benchmarks, "--out", str(out)]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def sampled(file: Path) -> list[dict[str, Any]]:
    """What was drawn and how it was graded, without what a batch's shape changes in the last digit."""
    return [{k: v for k, v in row.items() if k not in ("entropy", "rbf", "logp")} for row in rows(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nothing disturbed."""
    out = tmp_path_factory.mktemp("eval") / "whole"
    evaluate(out, f"{TEST}:40,{OOD}:6")
    return out


def test_the_command_line_reports(tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "e"
    result = runner.invoke(
        app,
        ["eval", "srft:model", *SETTINGS, "--benchmarks", f"{TEST}:4", "--out", str(out), "--against", "srft-table2",
         "--training-data", TEST],
        catch_exceptions=False,
    )  # fmt: skip
    for words in ("avg@n", "maj@n", "RBF", "the first 4 of 200 problems", "nothing in common", "share 13-grams"):
        assert words in result.output
    results = json.loads((out / "results.json").read_text())
    scores = results["benchmarks"]["test"]
    assert (scores["problems"], scores["samples"], scores["contamination"]["exact"]) == (4, 4, 4)
    assert {"avg", "avg_ci", "pass@1", "pass@2", "pass@4", "maj@4", "entropy", "rbf", "perplexity"} <= set(scores)
    assert len(rows(out / "test.jsonl")) == 16
    assert {"prompt", "response", "answer", "gold", "reward", "truncated", "verdict"} <= set(
        rows(out / "test.jsonl")[0]
    )
    table = list(csv.DictReader((out / "results.csv").open()))
    assert float(table[0]["avg"]) == scores["avg"]
    assert "| test | 4 | 4 |" in (out / "results.md").read_text()
    assert "srft" in results["versions"]
    again = runner.invoke(app, ["eval", "srft:model", *SETTINGS, "--benchmarks", f"{TEST}:4", "--out", str(out)])
    assert "of 4 problems," not in again.output  # all is there: nothing is sampled
    assert json.loads((out / "results.json").read_text())["benchmarks"]["test"]["avg"] == scores["avg"]


def test_a_function_scores_sets_without_answers(tmp_path: Path) -> None:
    data, own, out = tmp_path / "data.jsonl", tmp_path / "own.py", tmp_path / "e"
    data.write_text('{"prompt": "2 + 3?"}\n')
    own.write_text("def score(completions, **columns):\n    return [0.25] * len(completions)\n")
    words = ["eval", "srft:model", *SETTINGS, "--benchmarks", str(data), "--out", str(out)]
    with pytest.raises(SrftError, match="1 of 1 problems have no answer"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    CliRunner().invoke(app, [*words, "--function", f"{own}:score"], catch_exceptions=False)
    results = json.loads((out / "results.json").read_text())
    assert results["benchmarks"]["data"]["avg"] == 0.25
    assert results["settings"]["function"] == f"{own}:score"


def test_killed_it_goes_on_where_it_was(finished: Path, tmp_path: Path) -> None:
    out, benchmarks = tmp_path / "killed", f"{TEST}:40,{OOD}:6"
    file = out / "test.jsonl"
    process = subprocess.Popen([sys.executable, *eval_command(out, benchmarks)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (file.exists() and file.stat().st_size > 2000):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with file.open("a") as cut:
        cut.write('{"problem": 39, "sample": 0, "sco')  # as a kill in the middle of a write leaves it
    before = RecordFile(out, "test", 4).read()
    assert 0 < len(before) < 40
    marked = "".join(json.dumps({**r, "mark": 1}) + "\n" for group in before.values() for r in group)
    file.write_text(marked + '{"problem": 39, "sample": 0, "sco')

    results = evaluate(out, benchmarks)
    after = rows(file)
    assert [(r["problem"], r["sample"]) for r in after] == [(p, s) for p in range(40) for s in range(4)]
    assert {r["problem"] for r in after if "mark" in r} == set(before)  # not one of them was sampled again
    for row in after:
        row.pop("mark", None)
    whole = json.loads((finished / "results.json").read_text())
    assert results["benchmarks"]["test"]["avg"] == whole["benchmarks"]["test"]["avg"]
    file.write_text("".join(json.dumps(r) + "\n" for r in after))
    assert sampled(file) == sampled(finished / "test.jsonl")
    assert sampled(out / "ood.jsonl") == sampled(finished / "ood.jsonl")
    for key in ("pass@4", "maj@4", "avg_ci", "unsolved", "response_length", "truncated", "distinct_answers"):
        assert results["benchmarks"]["ood"][key] == pytest.approx(whole["benchmarks"]["ood"][key])


@pytest.mark.slow
def test_two_processes_draw_what_one_does(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    # Not `accelerate launch --cpu --num_processes 2`: without MPI that is one process.
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, *eval_command(out, f"{TEST}:40,{OOD}:6")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in finished.iterdir())
    two, one = (json.loads((f / "results.json").read_text()) for f in (out, finished))
    assert (two["processes"], one["processes"]) == (2, 1)
    ours, theirs = two["benchmarks"], one["benchmarks"]
    for name in ("test", "ood"):
        assert sampled(out / f"{name}.jsonl") == sampled(finished / f"{name}.jsonl")
        for key, value in theirs[name].items():
            if key not in ("source", "metric", "contamination"):
                assert ours[name][key] == pytest.approx(value, rel=1e-4), key


def test_another_setting_does_not_mix_in(finished: Path) -> None:
    benchmarks = f"{TEST}:40,{OOD}:6"
    for change, words in (
        ({"sampling": {"temperature": 0.5}}, "protocol"),
        ({"seed": 1}, "seed"),
        ({"sampling": {"n": 2}}, "protocol"),
    ):
        with pytest.raises(SrftError, match=words):
            evaluate(finished, benchmarks, **change)
    with pytest.raises(SrftError, match="test with problems 40, not 39"):
        evaluate(finished, f"{TEST}:39")


def test_against_another_evaluation(finished: Path, tmp_path: Path) -> None:
    results = evaluate(tmp_path / "small", f"{TEST}:6", str(finished), {"max_response_length": 48})
    cell = results["against"][0]["rows"]["srft:model"]["test"]
    assert cell["problems"] == 6
    assert cell["difference_ci"][0] <= cell["difference"] <= cell["difference_ci"][1]
    assert 0 <= cell["unsolved_overlap"] <= 1
    assert "ood" not in results["against"][0]["rows"]["srft:model"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampling": {"max_response_length": 100_000}}, r"sampling\.max_response_length"),
        ({"against": "srft-table9"}, "Did you mean 'srft-table"),
        ({"against": "srft-table2:SRTF"}, "Did you mean 'SRFT'"),
        ({"benchmarks": "nothing.jsonl"}, "no such file"),
        ({"benchmarks": "gsm9k"}, "Did you mean 'gsm8k'"),
        ({"benchmarks": ""}, "no benchmark named"),
    ],
)
def test_bad_settings_are_told_before_the_model_is_loaded(
    tmp_path: Path, change: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srft.evaluation.run.load_model", lambda *a, **k: pytest.fail("loaded the model"))
    with pytest.raises(SrftError, match=words):
        evaluate(tmp_path / "e", **{"benchmarks": f"{TEST}:2", **change})


@pytest.mark.parametrize("change", [{"precision": "fp8"}, {"protocol": "srtf"}, {"engine": "vlm"}, {"samples": 4}])
def test_settings_of_no_known_value_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        evaluate(tmp_path / "e", **change)


def test_folders_of_an_earlier_version_are_refused(finished: Path, tmp_path: Path) -> None:
    old = shutil.copytree(finished, tmp_path / "old")
    renamed = [{"score" if k == "reward" else k: v for k, v in row.items()} for row in rows(old / "test.jsonl")]
    write_rows(old / "test.jsonl", renamed)
    with pytest.raises(SrftError, match="columns of an earlier version"):
        evaluate(old, f"{TEST}:40,{OOD}:6")
    with pytest.raises(SrftError, match="columns of an earlier version"):
        evaluate(tmp_path / "new", f"{TEST}:2", str(old))


def test_real_benchmarks_run_against_the_papers(tmp_path: Path) -> None:
    data = shared("data/math500.jsonl").parent
    sampling = {"max_response_length": 8, "n": 1}
    results = evaluate(tmp_path, "math500:2,gsm8k:2", "srft-table2:SRFT", sampling, data_dir=str(data))
    assert results["against"][0]["rows"]["SRFT"]["math500"]["score"] == 89.8
    assert results["benchmarks"]["gsm8k"]["source"]["rows"] == 1319


def test_recorded_responses_score_as_they_were_scored() -> None:
    """800 responses of a 7B model; the one that differs was marked wrong for writing 10000 as the gold has 10{,}000."""
    recorded = rows(shared("data/qwen_math_cot_100.jsonl"))
    items = [(Problem(r["question"], r["gt"]), text) for r in recorded for text in r["response"]]
    theirs = [bool(score) for r in recorded for score in r["score"]]
    with Verifier(workers=1) as verifier:
        ours = [grade.reward >= 1 for grade in verifier.grade(items)]
    different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    assert [(recorded[i // 8]["gt"], ours[i]) for i in different] == [("10{,}000", True)]


def test_vllm_answers_too(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: docs/recipes.md, Engines")
    results = evaluate(tmp_path / "e", f"{TEST}:4", engine="vllm")
    assert results["settings"]["engine"] == "vllm"
    assert len(rows(tmp_path / "e" / "test.jsonl")) == 16
    assert results["benchmarks"]["test"]["entropy"] > 0
