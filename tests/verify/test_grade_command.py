"""`srft grade`, as a user would run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from srft.cli import app
from srft.errors import SrftError

CASES = [
    {"id": "a", "gold": "\\frac{1}{2}", "candidate": "0.5", "expected": True},
    {"gold": "x+1", "candidate": "x+2", "expected": False},
    {"gold": "2", "candidate": "9^{9^{9^9}}", "expected": False},
    {"gold": "3", "candidate": "<think>hm</think> it is \\boxed{3}", "expected": True},
    {"gold": "1.5", "candidate": "1 1/2"},
    {"gold": "7", "candidate": "8", "expected": True, "ambiguous": True},
    {"gold": 142.0, "candidate": 142, "expected": True},
    {"gold": "x", "candidate": "\ud800", "expected": False},
    {"gold": "4", "candidate": "5", "expected": True},
]
VERDICTS = ["right", "wrong", "unparsable", "right", "right", "wrong", "right", "unparsable", "wrong"]


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    file = tmp_path / "cases.jsonl"
    file.write_text("\n".join(map(json.dumps, CASES)) + "\n")
    return file


def grade(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["grade", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        (["\\frac{1}{2}", "0.5"], "right"),
        (["-5", "-5"], "right"),
        (["-5", "5"], "wrong"),
        (["-x", "-x"], "right"),
        (["5", "first \\boxed{4}, then \\boxed{5}"], "right"),
        (["5", "\\boxed{"], "unparsable"),
        (["--grader", "choice", "B", "The answer is B"], "right"),
        (["--grader", "choice", "B", "(B)"], "right"),
        (["--grader", "exact", "2", "2.0"], "wrong"),
        (["--grader", "format", "", "<think>a</think> b"], "right"),
    ],
)
def test_one_answer(arguments: list[str], verdict: str) -> None:
    assert grade(*arguments).strip() == verdict


def test_a_file_as_json_keeps_its_order(cases: Path) -> None:
    rows = [json.loads(line) for line in grade("--file", str(cases), "--json", "--workers", "1").splitlines()]
    assert [row["verdict"] for row in rows] == VERDICTS
    assert [row["id"] for row in rows] == ["a", *map(str, range(2, 10))]
    assert [row.get("expected") for row in rows] == [case.get("expected") for case in CASES]


def test_bytes_that_are_not_utf8_spoil_their_own_case_alone(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_bytes(b'{"gold": "1", "candidate": "\xff"}\r\n\n{"gold": "1", "candidate": "1"}')
    rows = [json.loads(line) for line in grade("--file", str(file), "--json", "--workers", "1").splitlines()]
    assert [(row["id"], row["verdict"], row["reward"]) for row in rows] == [("1", "unparsable", 0), ("3", "right", 1)]


def test_a_file_as_a_confusion_table(cases: Path) -> None:
    shown = grade("--file", str(cases), "--workers", "1")
    assert "9 cases, accuracy 0.8571 on 7, 0 false positives" in shown
    table = {line.split("│")[1].strip(): line.split("│")[2:6] for line in shown.splitlines() if line.startswith("│")}
    assert [int(n) for n in table["right"]] == [3, 1, 0, 0]
    assert [int(n) for n in table["not right"]] == [0, 1, 2, 0]
    assert [int(n) for n in table["ambiguous"]] == [0, 1, 0, 0]
    assert [int(n) for n in table["unknown"]] == [1, 0, 0, 0]
    assert "9: gold '4', candidate '5': wrong, expected right" in shown


def test_a_users_function(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def score(completions, answer, **columns):\n    return [float('yes' in completions[0])]\n")
    assert grade("--function", f"{own}:score", "", "yes").strip() == "right"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"gold": "1"}', "no candidate"),
        ("[1, 2]", "no gold and no candidate"),
        ("{", "malformed JSON"),
        ('{"gold": "1", "candidate": "1", "expected": "yes"}', "expected is 'yes'"),
    ],
)
def test_a_bad_file_is_an_error_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_text('{"gold": "1", "candidate": "1"}\n\n' + content)
    with pytest.raises(SrftError, match=words) as caught:
        grade("--file", str(file))
    assert f"{file}:3" in str(caught.value)


def test_bad_arguments(cases: Path, tmp_path: Path) -> None:
    for arguments, words in [
        (["5"], "nothing to grade"),
        (["5", "5", "--file", str(cases)], "both"),
        (["--file", str(tmp_path / "absent")], "cannot be read"),
        (["5", "5", "--grader", "maths"], "Did you mean 'math'"),
    ]:
        with pytest.raises(SrftError, match=words):
            grade(*arguments)
