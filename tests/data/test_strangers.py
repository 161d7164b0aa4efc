"""Files that strangers made: damaged, hostile or of another kind than their name says. An error names file and row."""

from __future__ import annotations

import bz2
import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from srft.data import Problem, Template, load_problems, problems_from_rows, render, template
from srft.data.files import read_text
from srft.errors import SrftError

ROW = {"prompt": "2 + 3?", "answer": "5", "completion": "\\boxed{5}"}
LINE = json.dumps(ROW) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", LINE + '{"prompt": "q", "answer": ' + "9" * 5000 + "}\n", "a.jsonl:2: malformed JSON: Exceeds"),
        ("a.jsonl", LINE + '{"prompt": "q", "x": ' + "[" * 200 + "]" * 200 + "}\n", "a.jsonl:2: nested more than 100"),
        ("a.jsonl", '{"prompt": "q", "x": ' + "[" * 50000 + "]" * 50000 + "}\n", "a.jsonl:1: malformed JSON: maximum"),
        ("a.json", "[" + LINE + "," + "[" * 200 + "]" * 200 + "]", "a.json, row 1: nested more than 100 deep"),
        ("a.jsonl", LINE + '{"prompt": "q", "answer": "\\ud800"}\n', "a.jsonl:2: text with half a surrogate pair, \\ud800"),
        ("a.json", "[" + LINE + ',{"prompt": "q\\udfff"}]', "a.json, row 1: text with half a surrogate pair"),
        ("a.jsonl", LINE.encode("utf-16"), "a.jsonl: UTF-16 or UTF-32, not UTF-8"),
        ("a.csv", "prompt,answer\ncafé,5\n".encode("latin-1"), "a.csv: not UTF-8"),
        ("a.csv", b"PK\x03\x04 a spreadsheet", "a.csv: a zip archive or a spreadsheet"),
        ("a.jsonl", b"PAR1", "a.jsonl: a Parquet file, and its name does not say so"),
        ("a.csv", "prompt,answer,prompt\n1,2,3\n", "a.csv:1: two columns are called 'prompt'"),
        ("a.jsonl.gz", gzip.compress(LINE.encode() * 1000)[:-20], "a.jsonl.gz: not a whole gzip file"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd" + b"x" * 50, "a.jsonl.zst: not a whole zstd file"),
        ("a.jsonl.bz2", b"BZh9" + b"x" * 50, "a.jsonl.bz2: not a whole bz2 file"),
        ("a.parquet", b"PAR1", "a.parquet: not a whole Parquet file"),
    ],
)  # fmt: skip
def test_files_that_are_damaged_or_hostile(tmp_path: Path, name: str, content: str | bytes, expected: str) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SrftError) as error:
        load_problems(str(file))
    assert expected in str(error.value)
    assert error.value.fix


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_compressed_file_is_known_by_its_content(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "a.jsonl").write_bytes(pack(b"\xef\xbb\xbf" + LINE.encode()))
    assert load_problems(str(tmp_path / "a.jsonl"))[0].prompt == ROW["prompt"]


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srft.data.files.ALWAYS_UNPACKED", 1 << 20)
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b" " * (64 << 20)))
    with pytest.raises(SrftError, match=r"a\.jsonl\.gz: it unpacks to more than 0\.0 GB"):
        read_text(file)
    file.write_bytes(gzip.compress(LINE.encode() * 1000))  # 180-fold, as repeated rows are
    assert len(read_text(file)) == 1000 * len(LINE)


@pytest.mark.parametrize(
    "name", ["", "a\0b.jsonl", "a" * 5000 + ".jsonl", "~nobody-here/a.jsonl", "package:../a", "/dev/zero"]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(SrftError):
        load_problems(name)


def test_damaged_parquet_names_the_row(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{**ROW, "prompt": f"{i} + 3?" * 20} for i in range(2000)])
    file = tmp_path / "a.parquet"
    pq.write_table(table, file, write_page_checksum=True)
    whole = file.read_bytes()
    file.write_bytes(whole[:5000] + bytes(64) + whole[5064:])  # a page whose checksum is wrong
    with pytest.raises(SrftError, match="not a whole Parquet file"):
        load_problems(str(file))
    not_utf8 = [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    pq.write_table(pa.table({"prompt": pa.Array.from_buffers(pa.string(), 1, not_utf8)}), file)
    with pytest.raises(SrftError, match="not a whole Parquet file"):
        load_problems(str(file))
    pq.write_table(pa.table({"prompt": ["q"], "when": pa.array([10**17], pa.timestamp("ms"))}), file)
    with pytest.raises(SrftError, match="must have magnitude"):  # a date that Python has not
        load_problems(str(file))


@pytest.mark.parametrize("damage", ["cut", "gone", "flipped", "offsets", "elsewhere", "info", "state"])
def test_damaged_saved_folders(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "saved"
    Dataset.from_list([ROW] * 5).save_to_disk(folder)
    (arrow,) = folder.glob("*.arrow")
    if damage == "cut":
        arrow.write_bytes(arrow.read_bytes()[:200])
    elif damage == "gone":
        arrow.unlink()
    elif damage == "flipped":
        content = bytearray(arrow.read_bytes())
        content[300:-100:13] = bytes(byte ^ 0xFF for byte in content[300:-100:13])
        arrow.write_bytes(content)
    elif damage == "offsets":  # of a text far beyond the file: to read it would end the process
        offsets, content = struct.pack("<6i", *range(0, 36, 6)), arrow.read_bytes()
        assert offsets in content
        arrow.write_bytes(content.replace(offsets, struct.pack("<6i", *range(0, 6 << 28, 1 << 28))))
    elif damage == "elsewhere":
        state = folder / "state.json"
        state.write_text(state.read_text().replace(arrow.name, "../../../../../etc/passwd"))
    else:
        (folder / ("dataset_info.json" if damage == "info" else "state.json")).write_text("[3]")
    with pytest.raises(SrftError, match="not a whole data set"):
        load_problems(str(folder))


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "row",
    [{"prompt": "q\ud800"}, {"prompt": "q", "answer": 10**5000}, {"prompt": "q", "x": nested(2000)}, {"q\udfff": "q"}],
)
def test_rows_in_memory(row: dict[str, Any]) -> None:
    with pytest.raises(SrftError, match="data, row 1"):
        problems_from_rows([ROW, row])
    assert problems_from_rows([ROW, {"prompt": "q", "answer": 10**3000, "x": nested(90)}])


@pytest.mark.parametrize(
    ("chat_template", "expected"),
    [
        ("{{ raise_exception('no\x1b[2J') }}", "no␛[2J"),
        ("{% for %}", "Expected an expression"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[7].x.y }}", "no element 7"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "more than 0.2 seconds"),
        ("{{ 'x' * 1000 }}", "a prompt of 1000 characters"),
    ],
)
def test_chat_templates(tokenizer: Any, monkeypatch: pytest.MonkeyPatch, chat_template: str, expected: str) -> None:
    monkeypatch.setattr(template, "LONGEST_RENDERING", 0.2)
    monkeypatch.setattr(template, "LONGEST_PROMPT", 500)
    with pytest.raises(SrftError, match="the chat template fails on messages of user") as error:
        render(Problem("q"), Template(chat_template=chat_template), tokenizer)
    assert expected in str(error.value)
