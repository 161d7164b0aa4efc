"""Several paths: how often an epoch holds each row, by weight and seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from srft.data import load_data
from srft.data.settings import DataSettings
from srft.errors import SrftError


def mix(tmp_path: Path, *weights: float, rows: int = 10, seed: int = 0, **section: Any) -> Counter[str]:
    """How often each prompt is there, of paths a, b, … with `rows` rows each."""
    parts = []
    for name, weight in zip("abc", weights, strict=False):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"{name}{i}"}) + "\n" for i in range(rows)))
        parts.append({"path": str(path), "weight": weight})
    problems = load_data(DataSettings.model_validate({"mix": parts, **section}), seed)
    return Counter(str(p.prompt) for p in problems)


def test_a_weight_is_how_often_an_epoch_holds_each_row(tmp_path: Path) -> None:
    counts = mix(tmp_path, 1, 2.3, 0.5)
    assert {counts[f"a{i}"] for i in range(10)} == {1}
    assert Counter(counts[f"b{i}"] for i in range(10)) == {2: 7, 3: 3}
    assert Counter(counts[f"c{i}"] for i in range(10)) == {1: 5, 0: 5}


def test_the_seed_draws_the_rest(tmp_path: Path) -> None:
    assert mix(tmp_path, 0.5, 0.5) == mix(tmp_path, 0.5, 0.5)
    assert mix(tmp_path, 0.5, 0.5, seed=1) != mix(tmp_path, 0.5, 0.5)
    drawn = mix(tmp_path, 0.5, 0.5)
    assert {p[1] for p in drawn if p[0] == "a"} != {p[1] for p in drawn if p[0] == "b"}  # a draw of its own each


def test_what_a_path_leaves_out_is_the_sections(tmp_path: Path) -> None:
    assert mix(tmp_path, 1, 1, limit=2) == Counter(["a0", "a1", "b0", "b1"])
    (tmp_path / "x.jsonl").write_text('{"q": "x", "w": "v"}\n')
    part = {"path": str(tmp_path / "x.jsonl")}
    section = {"mix": [part, {**part, "columns": {"prompt": "w"}}], "columns": {"prompt": "q"}}
    section["mix"][1]["source"] = "other"
    problems = load_data(DataSettings.model_validate(section), 0)
    assert [(p.prompt, p.source) for p in problems] == [("x", ""), ("v", "other")]
    section["mix"] = [DataSettings.model_validate(section).mix[0].model_dump()]  # as a run's recipe.yaml has it
    assert [p.prompt for p in load_data(DataSettings.model_validate(section), 0)] == ["x"]


def test_wrong_mixes(tmp_path: Path) -> None:
    with pytest.raises(SrftError, match=r"a\.jsonl: a weight of 0\.01 leaves none of 10 rows"):
        mix(tmp_path, 0.01)
    with pytest.raises(ValidationError, match="give one of `path` and `mix`"):
        DataSettings.model_validate({"path": "a", "mix": [{"path": "b"}]})
    with pytest.raises(SrftError, match="no data is named"):
        load_data(DataSettings(), 0)
