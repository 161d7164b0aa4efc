"""Every command of the documents names a recipe, and keys, that there are."""

from __future__ import annotations

import re
import shlex

import pytest

from srft.recipe.load import load_evaluation, load_recipe
from tests.helpers import ROOT

LINES = [
    line
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for block in re.findall(r"```bash\n(.*?)```", file.read_text(), re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
TRAIN = [line.partition("srft train ")[2] for line in LINES if "srft train " in line and "--resume" not in line]
EVAL = [line.partition("srft eval ")[2] for line in LINES if "srft eval " in line]
VALUED = {"--out", "--against", "--training-data", "--data-dir", "--protocol", "--benchmarks"}


def without_options(line: str) -> list[str]:
    """The words of a command but for its options and their values."""
    words, kept = iter(shlex.split(line, comments=True)), []
    for word in words:
        if word in VALUED:
            next(words)
        elif not word.startswith("--"):
            kept.append(word)
    return kept


@pytest.mark.parametrize("line", TRAIN)
def test_commands_of_the_documents_are_recipes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, *changes = without_options(line)
    assert load_recipe(name, changes).title


@pytest.mark.parametrize("line", EVAL)
def test_evaluations_of_the_documents_have_keys_that_there_are(line: str) -> None:
    options = [word for word in shlex.split(line, comments=True) if word.startswith("--")]
    assert set(options) <= VALUED
    model, *changes = without_options(line)
    assert load_evaluation(model, changes).model.path == model
