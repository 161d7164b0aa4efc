"""Files, folders and names: every format gives the same problems, and a wrong name never reaches the hub."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from srft.data import Columns, load_problems
from srft.errors import SrftError

ROWS = [{"question": f"{i} + 1?", "answer": str(i + 1), "solution": f"so\n\\boxed{{{i + 1}}}"} for i in range(3)]
EXPECTED = [(r["question"], r["answer"], (r["solution"],)) for r in ROWS]


def save(path: Path, rows: list[dict[str, Any]] = ROWS) -> None:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst").removesuffix(".bz2")
    if name.endswith((".csv", ".tsv")):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        with pa.output_stream(str(path), compression="detect") as file:
            file.write(lines.encode())


def problems(path: Path | str, **options: Any) -> list[tuple[Any, ...]]:
    return [(p.prompt, p.answer, p.demonstrations) for p in load_problems(str(path), **options)]


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.jsonl.zst", "a.jsonl.bz2", "A.CSV"]
)
def test_every_format_gives_the_same(tmp_path: Path, name: str) -> None:
    save(tmp_path / name)
    assert problems(tmp_path / name) == EXPECTED
    assert problems(tmp_path / name, limit=2) == EXPECTED[:2]


def test_saved_folders(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1])).save_to_disk(tmp_path / "both")
    assert problems(tmp_path / "one") == EXPECTED == problems(tmp_path / "both")
    assert problems(tmp_path / "both", split="test") == EXPECTED[:1]
    with pytest.raises(SrftError, match="no split 'dev'") as error:
        problems(tmp_path / "both", split="dev")
    assert "train, test" in error.value.fix
    (tmp_path / "one/state.json").write_text("{}")
    with pytest.raises(SrftError, match="not a whole data set"):
        problems(tmp_path / "one")


def test_folders_of_files(tmp_path: Path) -> None:
    for number in (0, 1):
        save(tmp_path / f"train-0000{number}-of-00002.parquet", [ROWS[number]])
    save(tmp_path / "test-00000-of-00001.parquet", [ROWS[2]])
    (tmp_path / "README.md").write_text("# data")
    assert problems(tmp_path) == EXPECTED[:2]
    assert problems(tmp_path, split="test") == EXPECTED[2:]
    with pytest.raises(SrftError, match="no file of the split 'dev' among test-00000"):
        problems(tmp_path, split="dev")
    save(tmp_path / "train.jsonl")
    with pytest.raises(SrftError, match=r"a folder of several formats: test-0.*train\.jsonl"):
        problems(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("")
    with pytest.raises(SrftError, match=r"without a file of rows; it holds notes\.txt"):
        problems(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "question,answer\n1,2\n3,4,5\n", "a.csv:3: more fields than the header's 2"),
        ("a.csv", 'question,answer\n"1,2\n', "a.csv:2: malformed"),
        ("a.csv", "question,answer\n1,2\n,4\n", "a.csv:3: column 'question' is empty"),
        ("a.jsonl.gz", "not packed", "a.jsonl.gz:1: malformed JSON"),
        ("a.json", '[{"question": 1},', "a.json: malformed JSON"),
        ("a.xlsx", "", "a file of unknown format '.xlsx'"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SrftError) as error:
        problems(tmp_path / name)
    assert expected in str(error.value)
    assert error.value.fix


def test_a_table_keeps_its_text(tmp_path: Path) -> None:
    long = "x" * 200_000  # over csv's own limit
    save(
        tmp_path / "a.csv",
        [{"question": long, "answer": "007"}, {"question": "who, \u2028 or\nwhat?", "answer": "None"}],
    )
    assert problems(tmp_path / "a.csv") == [(long, "007", ()), ("who, \u2028 or\nwhat?", "None", ())]


def test_semicolons_of_a_spreadsheet(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffquestion;answer\r\n1,5 + 1?;2,5\r\n".encode())
    assert problems(tmp_path / "a.csv") == [("1,5 + 1?", "2,5", ())]


def test_json_under_other_shapes(tmp_path: Path) -> None:
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "one.json").write_text(json.dumps(ROWS[0], indent=2))
    assert problems(tmp_path / "lines.json") == EXPECTED
    assert problems(tmp_path / "one.json") == EXPECTED[:1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dta.jsonl", "Did you mean 'data.jsonl'?"),
        ("data.csv", "Did you mean 'data.jsonl'?"),
        ("folder/trian.jsonl", "Did you mean 'train.jsonl'?"),
        ("folder/trian", "Did you mean 'train.jsonl'?"),
        ("folder/other", "That folder holds train.jsonl."),
        ("datta", "Did you mean 'data.jsonl'?"),
        ("nowhere/a.parquet", "There is no folder 'nowhere'."),
        ("owner/name.csv", "There is no folder 'owner'."),
        ("./owner/name", "There is no folder 'owner'."),
        ("data.xls", "Did you mean 'data.jsonl'?"),
    ],
)
def test_a_wrong_name_never_reaches_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    (tmp_path / "folder").mkdir()
    save(tmp_path / "data.jsonl")
    save(tmp_path / "folder/train.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: pytest.fail("the hub was asked"))
    with pytest.raises(SrftError, match="no such file or folder") as error:
        problems(name)
    assert expected in error.value.fix
    assert str(tmp_path / name.removeprefix("./")) in str(error.value)


@pytest.mark.parametrize("name", ["owner/name", "teknium/OpenHermes-2.5", "gsm8k", "owner/data.v2"])
def test_a_hub_id_is_asked_with_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[Any] = []

    def load(*arguments: Any, **options: Any) -> Dataset:
        asked.append((arguments, options))
        return Dataset.from_list([{"q": "1 + 1?", "answer": 2}])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load)
    (problem,) = load_problems(name, options={"name": "main", "revision": "abc"}, columns=Columns(prompt="q"))
    assert asked == [((name,), {"split": "train", "name": "main", "revision": "abc"})]
    assert problem.where == f"{name}[train], row 0"
