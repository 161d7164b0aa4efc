"""Files in each of the known columns, and every way that they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srft.data import Problem, load_problems, resolve_path
from srft.errors import SrftError
from tests.conftest import shared

USER, ASSISTANT = {"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "It is \\boxed{5}."}


def write(tmp_path: Path, *rows: Any, name: str = "data.jsonl") -> str:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "prompt", "answer", "demonstrations"),
    [
        ({"prompt": "q", "completion": "c \\boxed{1}"}, "q", "1", ("c \\boxed{1}",)),
        ({"prompt": [USER], "completion": [ASSISTANT], "answer": 5}, (USER,), "5", ("It is \\boxed{5}.",)),
        ({"messages": [USER, ASSISTANT]}, (USER,), "5", ("It is \\boxed{5}.",)),
        (
            {"prompt": [USER], "target": [ASSISTANT], "reward_model": {"ground_truth": "5"}, "data_source": "x"},
            (USER,), "5", ("It is \\boxed{5}.",),
        ),
        (
            {"question": "q", "answer": "3*4=<<3*4=12>>12,000 eggs\n#### 12,000"},
            "q", "12000", ("3*4=12,000 eggs\nThe answer is \\boxed{12000}.",),
        ),
        ({"problem": "q", "answer": 142.0}, "q", "142", ()),
        ({"question": "q", "final_answer": ["$7$"]}, "q", "7", ()),
        ({"problem": "q", "solution": "so \\boxed{\\frac{1}{2}}"}, "q", "\\frac{1}{2}", ("so \\boxed{\\frac{1}{2}}",)),
        ({"prompt": "q", "answer": "1", "demonstrations": ["a", "b"]}, "q", "1", ("a", "b")),
    ],
)  # fmt: skip
def test_columns_are_read_as_they_are(tmp_path: Path, row, prompt, answer, demonstrations) -> None:
    (problem,) = load_problems(write(tmp_path, row))
    assert (problem.prompt, problem.answer, problem.demonstrations) == (prompt, answer, demonstrations)
    assert problem.where.endswith("data.jsonl:1")


def test_parquet_as_verl_writes_it(tmp_path: Path) -> None:
    row = {"prompt": [USER], "target": [ASSISTANT], "reward_model": {"ground_truth": "5", "style": "rule"}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
    (problem,) = load_problems(str(tmp_path / "x.parquet"))
    assert (problem.prompt, problem.answer) == ((USER,), "5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no rows"),
        ('{"prompt": "q"}\n{"prompt": \n', "data.jsonl:2: malformed JSON"),
        ("[1]\n", "found list"),
        ('{"promt": "q", "answer": 1}\n', "no prompt column among promt, answer"),
        ('{"prompt": " ", "answer": 1}\n', "column 'prompt' is empty"),
        ('{"prompt": null, "answer": 1}\n', "column 'prompt' is empty"),
        ('{"prompt": 7, "answer": 1}\n', "column 'prompt' is int 7"),
        ('{"prompt": "q", "answer": Infinity}\n', "the answer is a float, inf"),
        ('{"prompt": "q", "images": ["a.png"]}\n', "column 'images' holds images"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]}\n',
            "column 'messages' holds a message of image, text",
        ),
        ('{"conversations": [{"from": "bing", "value": "q"}]}\n', "a message of the role 'bing'"),
        ('{"messages": [{"role": "user", "content": ""}]}\n', "column 'messages' has an empty message"),
        ('{"prompt": "q", "completion": [{"role": "user", "content": "x"}]}\n', "ends with the message of the user"),
        (
            '{"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": '
            '[{"role": "user", "content": "other"}, {"role": "assistant", "content": "b"}]}\n',
            "column 'rejected' answers another conversation",
        ),
        ('{"prompt": [], "answer": 1}\n', "column 'prompt' is an empty list"),
        ('{"prompt": [{"text": "q"}]}\n', "A message has a role and a content"),
        ('{"prompt": "q", "answer": {"a": 1}}\n', "the answer is a dict"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}\n', "holds no prompt"),
    ],
)
def test_errors_name_file_and_row(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(SrftError) as error:
        load_problems(str(path))
    assert expected in str(error.value)
    assert "data.jsonl" in str(error.value)
    assert error.value.fix


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("missing.jsonl", "no such file"),
        ("./nowhere", "no such file"),
        ("srft:arithmetic/no.jsonl", "no such file"),
        ("package:no_such_package_here/x.gguf", "not installed"),
        ("reasoning-gym:chain_sums", "Did you mean 'chain_sum'"),
        ("nobody/nothing-at-all", "nothing of that name is here, and the hub gave no split"),
    ],
)
def test_missing_sources(path: str, expected: str) -> None:
    with pytest.raises(SrftError, match=expected):
        load_problems(path)


def test_broken_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(SrftError, match="not a whole Parquet file"):
        load_problems(str(tmp_path / "x.parquet"))


def test_the_embedded_splits_are_apart() -> None:
    splits = {name: load_problems(f"srft:arithmetic/{name}.jsonl") for name in ("train", "test", "ood")}
    assert {name: len(problems) for name, problems in splits.items()} == {"train": 2000, "test": 200, "ood": 200}
    prompts = [p.prompt for problems in splits.values() for p in problems]
    assert len(set(prompts)) == len(prompts)
    assert Path(resolve_path("srft:arithmetic/train.jsonl")).is_file()


@pytest.mark.parametrize(
    ("file", "rows", "answer"),
    [
        ("gsm8k_train.jsonl", 7473, "72"),
        ("gsm8k_test.jsonl", 1319, "18"),
        ("math500.jsonl", 500, "\\left( 3, \\frac{\\pi}{2} \\right)"),
        ("minerva_math.jsonl", 272, "1.6"),
        ("olympiadbench_qwen.jsonl", 675, "2"),
        ("aime24.jsonl", 30, "204"),
        ("aime25.jsonl", 30, "70"),
        ("amc83.jsonl", 83, "142"),
        ("arc_challenge_test.parquet", 1172, "C"),
        ("deepscaler_train_math.json", 7474, "0"),
        ("long_traces_5.parquet", 5, ""),
    ],
)
def test_real_files(file: str, rows: int, answer: str) -> None:
    problems = load_problems(str(shared(f"data/{file}")))
    assert len(problems) == rows
    assert problems[0].answer == answer
    assert all(isinstance(p, Problem) and p.prompt for p in problems)
