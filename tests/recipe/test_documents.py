"""Every command of the documents names a recipe, and keys, that there are; every test that they name is there too."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from srft.recipe.load import load_evaluation, load_recipe
from tests.helpers import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINES = [
    line
    for file in DOCUMENTS
    for block in re.findall(r"```bash\n(.*?)```", file.read_text(), re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
TRAIN = [line.partition("srft train ")[2] for line in LINES if "srft train " in line and "--resume" not in line]
EVAL = [line.partition("srft eval ")[2] for line in LINES if "srft eval " in line]
VALUED = {"--out", "--engine", "--against", "--training-data", "--data-dir", "--protocol", "--benchmarks", "--function"}
OF_TRAIN = {"--model": "model.path", "--data": "data.path", "--method": "method.name"}  # options that are keys


def without_options(line: str) -> list[str]:
    """The words of a command but for its options and their values."""
    words, kept = iter(shlex.split(line, comments=True)), []
    for word in words:
        if word in VALUED or word == "--eval":
            next(words)
        elif word in OF_TRAIN:
            kept.append(f"{OF_TRAIN[word]}={next(words)}")
        elif not word.startswith("--"):
            kept.append(word)
    return kept


@pytest.mark.parametrize("line", TRAIN)
def test_commands_of_the_documents_are_recipes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, *changes = without_options(line)
    if "=" in name:  # no recipe is named: one is made for model and data
        name, changes = {"training": {"steps": 1}}, [name, *changes]
    assert load_recipe(name, [change for change in changes if not change.startswith("verl.")]).title


@pytest.mark.parametrize("line", EVAL)
def test_evaluations_of_the_documents_have_keys_that_there_are(line: str) -> None:
    options = [word for word in shlex.split(line, comments=True) if word.startswith("--")]
    assert set(options) <= VALUED
    model, *changes = without_options(line)
    assert load_evaluation(model, changes).model.path == model


def named_tests(text: str) -> list[tuple[str, str]]:
    """The test files that a document names, each with a test of it or "". A file without a folder is one of
    tests/objective; a test without a file is in the last one named."""
    places, file = [], ""
    for path, test, alone in re.findall(
        r"(?<!\w)(?:((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?|(test_\w+)\b(?!\.))", text
    ):
        file = (path if "/" in path else f"tests/objective/{path}") if path else file
        places.append((file, test or alone))
    return places


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_tests_that_the_documents_name_are_there(document: Path) -> None:
    for file, test in named_tests(document.read_text()):
        assert (ROOT / file).is_file(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_names_of_tests_are_read_as_the_tables_abbreviate_them() -> None:
    row = "| `test_a.py::test_x`, `test_y`; `tests/run/test_b.py`, `test_z` | mmlu_test.json, test_b.jsonl |"
    ours, other = "tests/objective/test_a.py", "tests/run/test_b.py"
    assert named_tests(row) == [(ours, "test_x"), (ours, "test_y"), (other, ""), (other, "test_z")]
    assert len(named_tests((ROOT / "docs/methods.md").read_text())) > 40
