"""Folders of evaluations, runs and published files that are not what they should be."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from srft.cli import app
from srft.errors import SrftError
from srft.evaluation.benchmarks import choose
from srft.evaluation.compare import compare
from srft.evaluation.external.tax import run_tasks
from srft.evaluation.records import RecordFile, open_folder, read_records

RECORD = {"problem": 0, "sample": 0, "reward": 1.0}


@pytest.mark.parametrize(
    "text", ["[]", '{"benchmarks": 3}', '{"benchmarks": {"x": 3}, "settings": {"model": "m"}}', '{"a": 1}']
)
def test_results_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    (tmp_path / "x.jsonl").write_text(json.dumps(RECORD) + "\n")
    ours = {"benchmarks": {"x": {"source": {"sha256": "0"}, "unsolved": []}}}
    with pytest.raises(SrftError, match=r"results\.json: not the results of `srft eval`"):
        compare(str(tmp_path), ours, tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"settings": {}}', '{"settings": {}, "benchmarks": 3}'])
def test_settings_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(SrftError, match=r"settings\.json: not the settings of an evaluation"):
        open_folder(tmp_path, {}, {})


def test_records_of_other_kinds_are_left_out(tmp_path: Path) -> None:
    rows = [RECORD, {**RECORD, "problem": [1]}, {**RECORD, "sample": "0"}, {**RECORD, "reward": None}, [3]]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_records(tmp_path / "x.jsonl") == [RECORD]


def test_a_name_with_brackets_finds_its_own_files_alone(tmp_path: Path) -> None:
    file = RecordFile(tmp_path, "a[bc]*", 1)
    file.append([RECORD], rank=1)
    RecordFile(tmp_path, "ab", 1).append([{**RECORD, "problem": 7}], rank=1)
    assert file.merge() == {0: [RECORD]}
    assert (tmp_path / "ab.rank1.jsonl").exists()


@pytest.mark.parametrize("names", ["x/\x1b[2J.jsonl", "x/..jsonl", "a\nb.jsonl", "/.jsonl"])
def test_files_whose_results_could_have_no_name(names: str) -> None:
    with pytest.raises(SrftError, match="cannot name a file"):
        choose(names)


def test_published_archives(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "mmlu.zip").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(SrftError, match=r"mmlu\.zip: not the published file"):
        run_tasks(None, ["mmlu"], data_dir=tmp_path)
    with zipfile.ZipFile(tmp_path / "mmlu.zip", "w") as archive:
        archive.writestr("data/dev/../../../a_dev.csv", "question,A\n")
    with pytest.raises(SrftError, match=r"mmlu\.zip: not the published file"):
        run_tasks(None, ["mmlu"], data_dir=tmp_path)


def test_select_of_what_is_no_run_and_to_what_is_no_file(tmp_path: Path) -> None:
    rollouts = tmp_path / "run/rollouts"
    rollouts.mkdir(parents=True)
    row = {
        "is_demo": False,
        "prompt": "q\u2028",
        "answer": "5",
        "response": "5",
        "verdict": "right",
        "truncated": False,
    }
    (rollouts / "step-000001.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n")
    arguments = ["select", str(tmp_path / "run"), "--out"]
    with pytest.raises(SrftError, match=r"--out .*: cannot be written"):
        CliRunner().invoke(app, [*arguments, str(tmp_path)], catch_exceptions=False)
    CliRunner().invoke(app, [*arguments, str(tmp_path / "mine.jsonl")], catch_exceptions=False)
    assert json.loads((tmp_path / "mine.jsonl").read_text())["prompt"] == "q\u2028"
    (rollouts / "step-000002.jsonl").write_text('{"prompt": "q"}\n')
    with pytest.raises(SrftError, match=r"step-000002\.jsonl:1: not a rollout that a run saved"):
        CliRunner().invoke(app, [*arguments, str(tmp_path / "mine.jsonl")], catch_exceptions=False)
