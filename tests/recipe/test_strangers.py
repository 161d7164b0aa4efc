"""Recipes that strangers made: no tag, alias or name of theirs does more than a recipe may."""

from __future__ import annotations

from pathlib import Path

import pytest

from srft.errors import SrftError
from srft.recipe.load import load_evaluation, load_recipe

LAUGHS = "x-a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"x-{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 8)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training: {steps: " + "9" * 5000 + "}", "Exceeds the limit"),
        ("data: " + "[" * 500 + "]" * 500, "nested more than 100 deep"),
        ("data: " + "{a: " * 3000 + "1" + "}" * 3000, "nested more than 100 deep"),
        ("data: " + "[" * 200_000, "nested more than 100 deep"),
        (LAUGHS + "data: {path: *j}", "more than 100000 values"),
        ("data: &a {b: *a}", "more than 100000 values"),
        ("data: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("name: 2020-13-45", "month must be in"),
        ("extends: quickstart\ndata: {path: a}\ndata: {path: b}", "the key 'data' stands twice"),
        ("? [1, 2]\n: 3", "unhashable key"),
        ("extends: quickstart\nmethod: {name: [1]}", "method.name"),
        ("extends: quickstart\nmethod: {preset: [1]}", "method.preset"),
        ("extends: quickstart\nmethod: {file: 3}", "method.file"),
        ("extends: quickstart\nevaluation: {sets: {../x: {path: a}}}", "'../x' cannot name a file"),
        ("extends: quickstart\nlogging: {project: /abs}", "'/abs' cannot name a file"),
        ("extends: quickstart\ndata: {options: {token: hf_abcdefghijklmnopqrstu}}", "data.options.token: it holds a password"),
        ("extends: quickstart\nstages: [{model: {path: 'https://a:secret@host'}}]", "model.path: it holds a password"),
        ("\ufeffextends: nonesuch", "no recipe 'nonesuch'"),
    ],
)  # fmt: skip
def test_files(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(SrftError) as error:
        load_recipe(file)
    assert expected in str(error.value)
    assert "secret" not in str(error.value)
    assert "hf_abc" not in str(error.value)


def test_encodings(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"name: caf\xe9")
    with pytest.raises(SrftError, match=r"mine\.yaml: not UTF-8"):
        load_recipe(file)
    file.write_text("\ufeffextends: quickstart\nname: café\n", encoding="utf-8")
    assert load_recipe(file).name == "café"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a." * 3000 + "b=1", "is not an override"),
        ("training.steps=" + "9" * 5000, "'training.steps'"),
        ("method.name=[1]", "method.name"),
        ("method.name=[]", "method.name"),
        ("method.name=null", "method.name"),
        ("evaluation.sets.a/b.path=x", "'a/b' cannot name a file"),
        ("evaluation.sets..hidden.path=x", "is not an override"),
        ("data={a: &a [*a]}", "'data'"),
    ],
)
def test_overrides(override: str, expected: str) -> None:
    with pytest.raises(SrftError) as error:
        load_recipe("quickstart", [override])
    assert expected in str(error.value)
    assert len(str(error.value)) < 6500


@pytest.mark.parametrize("name", ["..", ".x", "a/b", "a\\b", "", "a" * 101, "a\x1b[2J", "a\nb", "a\u202e"])
def test_names_of_sets_are_names_of_files(name: str) -> None:
    with pytest.raises(SrftError, match="cannot name a file"):
        load_evaluation("srft:model", sets={name: {"path": "x.jsonl"}})


@pytest.mark.parametrize("name", ["mine (1)", "gsm8k-200", "AIME 2024", "数学", "a.b[c]*", "[bold]"])
def test_other_names_are_left_alone(name: str) -> None:
    assert list(load_evaluation("srft:model", sets={name: {"path": "x.jsonl"}}).sets) == [name]
