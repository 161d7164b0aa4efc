"""Each format's columns as a problem: what is the prompt, what the response, and what counts as missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from srft.data import Columns, problems_from_rows
from srft.errors import SrftError

SYSTEM = {"role": "system", "content": "Be brief."}
USER, ASSISTANT = {"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "It is \\boxed{5}."}
MORE, LAST = {"role": "user", "content": "And 4?"}, {"role": "assistant", "content": "\\boxed{9}"}
SHAREGPT = [{"from": "human", "value": "2 + 3?"}, {"from": "gpt", "value": "It is \\boxed{5}."}]
WRONG = {"role": "assistant", "content": "6"}


def read(row: Any, **columns: str) -> Any:
    (problem,) = problems_from_rows([row], columns=Columns(**columns))
    return problem


@pytest.mark.parametrize(
    ("row", "prompt", "demonstrations", "rejected"),
    [
        ({"instruction": "Add.", "input": "2, 3", "output": "5"}, "Add.\n\n2, 3", ("5",), ""),
        ({"instruction": "2 + 3?", "input": "", "output": "5"}, "2 + 3?", ("5",), ""),
        ({"conversations": SHAREGPT}, (USER,), ("It is \\boxed{5}.",), ""),
        ({"conversations": SHAREGPT, "system": "Be brief."}, (SYSTEM, USER), ("It is \\boxed{5}.",), ""),
        ({"prompt": "2 + 3?", "system": " "}, "2 + 3?", (), ""),
        ({"messages": [SYSTEM, USER]}, (SYSTEM, USER), (), ""),
        ({"messages": [USER, ASSISTANT, MORE, LAST]}, (USER, ASSISTANT, MORE), ("\\boxed{9}",), ""),
        ({"prompt": [USER], "completion": [ASSISTANT, MORE, LAST]}, (USER, ASSISTANT, MORE), ("\\boxed{9}",), ""),
        ({"prompt": "2 + 3?", "completion": [ASSISTANT]}, "2 + 3?", ("It is \\boxed{5}.",), ""),
        ({"prompt": "2 + 3?", "chosen": "5", "rejected": "6"}, "2 + 3?", ("5",), "6"),
        ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": [WRONG]}, (USER,), ("It is \\boxed{5}.",), "6"),
        ({"prompt": "2 + 3?", "chosen": [USER, ASSISTANT], "rejected": [USER, WRONG]}, (USER,), ("It is \\boxed{5}.",), "6"),
        ({"chosen": [USER, ASSISTANT], "rejected": [USER, WRONG]}, (USER,), ("It is \\boxed{5}.",), "6"),
        ({"prompt": "2 + 3?", "completion": "5", "label": True}, "2 + 3?", ("5",), ""),
        ({"prompt": "2 + 3?", "completion": "6", "label": False}, "2 + 3?", (), ""),
        ({"text": "two and three"}, "", ("two and three",), ""),
        ({"prompt": "2 + 3?", "completion": " \n"}, "2 + 3?", (), ""),
        ({"prompt": "2 + 3?", "completion": None, "solution": "5"}, "2 + 3?", ("5",), ""),
        ({"prompt": "2 + 3?", "target": []}, "2 + 3?", (), ""),
        ({"messages": [USER, {**ASSISTANT, "content": ""}]}, (USER,), (), ""),
        ({"prompt": "2 + 3?", "demonstrations": ["5", ""]}, "2 + 3?", ("5",), ""),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "2 + 3?"}]}, ASSISTANT]},
            (USER,), ("It is \\boxed{5}.",), "",
        ),
    ],
)  # fmt: skip
def test_formats(row: Any, prompt: Any, demonstrations: Any, rejected: str) -> None:
    problem = read(row)
    assert (problem.prompt, problem.demonstrations, problem.rejected) == (prompt, demonstrations, rejected)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"prompt": "q", "answer": float("nan")}, ""),
        ({"prompt": "q", "answer": float("nan"), "completion": "\\boxed{5}"}, "5"),
        ({"prompt": "q", "answer": np.float64(7.0)}, "7"),
        ({"prompt": "q", "reward_model": {"ground_truth": "5"}}, "5"),
        ({"prompt": "q", "answer": "", "gold": 3}, "3"),
        ({"prompt": "q", "reward_model": {"ground_truth": {"numbers": [1, 2]}}}, '{"numbers": [1, 2]}'),
        ({"prompt": "q", "answer": "5 + 5 = <<5+5=10>>10\n#### 10", "completion": "10"}, "10"),
    ],
)
def test_answers(row: Any, answer: str) -> None:
    assert read(row).answer == answer


def test_every_column_is_kept() -> None:
    row = {"prompt": "q", "answer": "1", "extra_info": {"index": 3}, "level": float("nan"), "scores": np.array([1, 2])}
    assert read(row).metadata == {**row, "level": None, "scores": [1, 2]}


def test_columns_are_named() -> None:
    row = {"frage": "q", "gold": 3, "prompt": "not this", "loesung": "three", "schlecht": "4", "aus": "x", "rolle": "s"}
    problem = read(
        row, prompt="frage", answer="gold", demonstration="loesung", rejected="schlecht", source="aus", system="rolle"
    )
    assert problem.prompt == ({"role": "system", "content": "s"}, {"role": "user", "content": "q"})
    assert (problem.answer, problem.demonstrations, problem.rejected, problem.source) == ("3", ("three",), "4", "x")
    with pytest.raises(
        SrftError, match=r"no column 'fragen', which columns.prompt names; there are frage, gold"
    ) as error:
        read(row, prompt="fragen")
    assert "Did you mean 'frage'?" in error.value.fix


def test_a_column_may_lack_in_some_rows() -> None:
    rows = [{"q": "1 + 1?", "s": "2"}, {"q": "1 + 2?"}]
    one, other = problems_from_rows(rows, columns=Columns(prompt="q", demonstration="s"))
    assert (one.demonstrations, other.demonstrations) == (("2",), ())
    with pytest.raises(SrftError, match="data, row 1: column 's' is empty"):
        problems_from_rows(rows, columns=Columns(prompt="s"))


def test_rows_in_memory() -> None:
    rows = [{"question": "1 + 1?", "answer": "2"}, {"question": "1 + 2?", "answer": "3"}]
    expected = [("1 + 1?", "2"), ("1 + 2?", "3")]
    for given in (rows, iter(rows), Dataset.from_list(rows), pd.DataFrame(rows)):
        assert [(p.prompt, p.answer) for p in problems_from_rows(given)] == expected
    with pytest.raises(SrftError, match="not a list of rows: DatasetDict of train"):
        problems_from_rows(DatasetDict(train=Dataset.from_list(rows)))
    with pytest.raises(SrftError, match="data, row 0: a row is an object of columns, found str"):
        problems_from_rows(["q"])
    with pytest.raises(SrftError, match="no rows"):
        problems_from_rows([])
