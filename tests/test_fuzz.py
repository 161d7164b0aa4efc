"""Readers under fuzzing: of whatever bytes they are given they make a result or an `SrftError`, and write nothing.

The short runs are the same at every call; `scripts/drills tests/test_fuzz.py` makes many more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srft.data import (
    Problem,
    PromptSettings,
    load_problems,
    make_template,
    problems_from_rows,
    render,
    resolve_path,
    template,
)
from srft.errors import SrftError
from srft.evaluation.benchmarks import choose
from srft.evaluation.compare import compare
from srft.evaluation.load import load_benchmark
from srft.evaluation.records import RecordFile, open_folder
from srft.policy.load import ModelSettings, load_config, load_model, load_tokenizer
from srft.recipe.fields import recipe_fields
from srft.recipe.load import load_recipe
from srft.run.select import saved_candidates
from srft.training.run_dir import RunDir
from srft.training.settings import SelectionSettings
from srft.verify.report import read_cases

FEW, MANY = 40, 4000
ROWS = [
    {"prompt": f"{i} + 3?", "answer": str(i + 3), "completion": f"It is \\boxed{{{i + 3}}}.", "source": "sums", "n": i}
    for i in range(8)
]
CHAT = [{"messages": [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]}]
VERL = [
    {"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "5"}, "extra_info": {"index": 0}}
]
ROLLOUT = {"is_demo": False, "prompt": "q", "answer": "5", "response": "5", "verdict": "right", "truncated": False}
RECORD = {"problem": 0, "sample": 0, "reward": 1.0, "response": "5", "verdict": "right"}
SOURCE = {"place": "x", "sha256": "0", "rows": 1}
RESULTS = {"settings": {"model": "m"}, "benchmarks": {"x": {"avg": 1.0, "source": SOURCE, "unsolved": []}}}
RECIPE = """\
extends: quickstart
summary: mine
x-long: &long {max_response_length: 160}
method: {name: srft, scale_sft: 0.4}
rollout: {n: 4, <<: *long}
data: {path: "srft:arithmetic/train.jsonl", few_shot: {rows: [{prompt: 1 + 1?, completion: "2"}]}}
evaluation: {sets: {test: {path: a.jsonl, limit: 4}}, every: 10}
variants:
  other: {summary: other, extends: more, optim: {lr: 1e-5}}
  more: {summary: more, logging: {trackers: [], project: p}}
"""
TEMPLATE = (
    "{% set x = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{{ m['content'] | trim }}{% else %}"
    "<|{{ m.role }}|>{{ m.content }}{% endif %}{% set x.n = x.n + 1 %}{% endfor %}{{ '<|assistant|>' * x.n }}"
)
SNIPPETS = [
    b'"\\ud800"', b"[" * 200, b"{" * 200, b'{"a":' * 200, b"9" * 5000, b"1e999", b"NaN", b"null", b"true", b"-1", b"\0",
    b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x1f\x8b\x08", b"PAR1", b"\n", b"\r", b",", b'"', b"'", b"{", b"}",
    b"[", b"]", b"&a [*a]", b"*a", b"<<: *a", b"!!python/name:os.system ", b"? [1]\n: 2\n", b": ", b"- ", b"../x", b"/etc",
    b"{% for i in range(99999) %}", b"{% endfor %}", b"{{ 1 / 0 }}", b"{{ messages }}", b"{% macro f() %}", b"}}", b"%}",
    b"\x1b[2J", b"[/x]", b"2020-13-45", b"0o9", b"\xf0\x9f\x98\x80",
]  # fmt: skip
changes = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["put", "insert", "cut", "drop", "repeat"]),
        st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from(SNIPPETS)),
    ),
    min_size=1,
    max_size=5,
)


def changed(data: bytes, edits: Iterable[tuple[float, str, bytes]]) -> bytes:
    for place, what, piece in edits:
        i = int(place * (len(data) + 1))
        if what == "put":
            data = data[:i] + piece + data[i + len(piece) :]
        elif what == "insert":
            data = data[:i] + piece + data[i:]
        elif what == "cut":
            data = data[:i]
        elif what == "drop":
            data = data[:i] + data[i + len(piece) :]
        else:
            data = data[:i] + data[max(i - 20, 0) : i] * 3 + data[i:]
    return data


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def packed(codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(lines(*ROWS))
    return sink.getvalue().to_pybytes()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def csv_of(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join([",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]).encode()


def problems(path: Path) -> Any:
    return load_problems(str(path))


def problems_beside(path: Path) -> Any:
    return load_problems(str(path.parent))


def evaluation_beside(path: Path) -> Any:
    open_folder(path.parent, {"model": "m"}, {"x": {"problems": 1}})
    RecordFile(path.parent, "x", 1).read()
    return compare(str(path.parent), RESULTS, path.parent)


def benchmark_beside(path: Path) -> Any:
    return load_benchmark(choose("aime24")[0], data_dir=path.parent)


def rollouts_beside(path: Path) -> Any:
    return saved_candidates(RunDir(path.parents[1]), SelectionSettings(keep="correct"))


def model_beside(path: Path) -> Any:
    settings = ModelSettings(path=str(path.parent))
    return load_config(settings), load_tokenizer(settings), load_model(settings)


AIME = [{"problem": f"{i} + 3?", "answer": i + 3, "id": i} for i in range(30)]
READERS: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
    "a.jsonl": (lines(*ROWS, *CHAT, *VERL), problems),
    "a.json": (json.dumps(ROWS + CHAT, indent=1).encode(), problems),
    "a.csv": (csv_of(ROWS), problems),
    "a.parquet": (parquet(ROWS), problems),
    "chat.parquet": (parquet(CHAT), problems),
    "a.jsonl.gz": (packed("gzip"), problems),
    "a.jsonl.zst": (packed("zstd"), problems),
    "recipe.yaml": (RECIPE.encode(), load_recipe),
    "cases.jsonl": (lines({"id": 1, "gold": "1", "candidate": "2", "expected": True}), lambda p: read_cases(None, None, p)),
    "bench/aime24.jsonl": (lines(*AIME), benchmark_beside),
    "run/rollouts/step-000001.jsonl": (lines(ROLLOUT), rollouts_beside),
    "eval/results.json": (json.dumps(RESULTS).encode(), evaluation_beside),
    "eval/settings.json": (b'{"settings": {"model": "m"}, "benchmarks": {"x": {"problems": 1}}}', evaluation_beside),
    "eval/x.jsonl": (lines(RECORD), evaluation_beside),
}  # fmt: skip


def attack(file: Path, valid: bytes, read: Callable[[Path], Any], examples: int) -> None:
    """Read `examples` changed versions of a valid file; nothing may come of it but a result or an SrftError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    root = file.parent
    file.write_bytes(valid)
    read(file)
    before = sorted(root.rglob("*"))

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(changes)
    def survives(edits: list[tuple[float, str, bytes]]) -> None:
        file.write_bytes(changed(valid, edits))
        with suppress(SrftError):
            read(file)
        assert sorted(root.rglob("*")) == before

    survives()


LONG = pytest.param(MANY, marks=[pytest.mark.drills, pytest.mark.timeout(3600)], id="long")
SHORT = pytest.param(FEW, id="short")


@pytest.mark.parametrize("examples", [SHORT, LONG])
@pytest.mark.parametrize("name", READERS)
def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, examples: int) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eval").mkdir()
    for other, (valid, _) in READERS.items():
        if other.startswith("eval/"):
            (tmp_path / other).write_bytes(valid)
    valid, read = READERS[name]
    attack(tmp_path / name, valid, read, examples)


@pytest.mark.parametrize("examples", [SHORT, LONG])
@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "state.json", "dataset_info.json"])
def test_saved_folders(tmp_path: Path, name: str, examples: int) -> None:
    folder = tmp_path / "saved"
    Dataset.from_list(ROWS).save_to_disk(folder)
    attack(folder / name, (folder / name).read_bytes(), problems_beside, examples)


@pytest.mark.parametrize("examples", [SHORT, LONG])
def test_chat_templates(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, examples: int) -> None:
    monkeypatch.setattr(template, "LONGEST_RENDERING", 1.0)
    problem = Problem(({"role": "system", "content": "s"}, {"role": "user", "content": "q"}))

    def read(path: Path) -> Any:
        return render(problem, make_template(PromptSettings(template=str(path))), tokenizer)

    attack(tmp_path / "mine.jinja", TEMPLATE.encode(), read, examples)


@pytest.mark.parametrize("examples", [pytest.param(4, id="short"), pytest.param(300, marks=LONG.marks, id="long")])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_models(tmp_path: Path, name: str, examples: int) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_path("srft:model"), folder)
    attack(folder / name, (folder / name).read_bytes(), model_beside, examples)


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\ud800", 10**4000, "x", -1]),
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
COLUMNS = [
    "prompt", "answer", "completion", "messages", "conversations", "text", "chosen", "rejected", "reward_model", "system",
    "instruction", "input", "output", "label", "images", "demonstrations", "data_source", "solution", "target",
]  # fmt: skip
messages = st.lists(
    st.fixed_dictionaries(
        {}, optional={"role": st.sampled_from(["user", "assistant", "gpt", 3]), "content": values, "from": leaves}
    )
)
rows = st.dictionaries(st.sampled_from(COLUMNS), st.one_of(values, messages, st.just("2 + 3?")), max_size=5)


@pytest.mark.parametrize("examples", [pytest.param(4 * FEW, id="short"), LONG])
def test_rows_in_memory(examples: int) -> None:
    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(rows)
    def survives(row: dict[str, Any]) -> None:
        try:
            (problem,) = problems_from_rows([row])
        except SrftError:
            return
        json.dumps([problem.prompt, problem.answer, problem.demonstrations]).encode()

    survives()


@pytest.mark.parametrize("examples", [pytest.param(2 * FEW, id="short"), LONG])
def test_recipes_in_memory_and_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: int) -> None:
    monkeypatch.chdir(tmp_path)
    keys = [field.key for field in recipe_fields()]
    texts = st.one_of(
        st.text(max_size=12), values.map(repr), st.sampled_from([piece.decode(errors="replace") for piece in SNIPPETS])
    )

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(st.lists(st.tuples(st.sampled_from(keys) | st.text(max_size=6), texts), min_size=1, max_size=4))
    def survives(overrides: list[tuple[str, str]]) -> None:
        with suppress(SrftError):
            load_recipe("quickstart", [f"{key}={text}" for key, text in overrides])
        assert not list(tmp_path.iterdir())

    survives()


@pytest.mark.parametrize("examples", [SHORT, LONG])
def test_names_of_benchmarks(examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(st.text(max_size=30) | st.text(alphabet="ax/.:\\\n0123jsonl,", max_size=30))
    def survives(names: str) -> None:
        try:
            chosen = choose(names)
        except SrftError:
            return
        assert all("/" not in choice.name and choice.name[0] != "." and choice.name.isprintable() for choice in chosen)

    survives()
