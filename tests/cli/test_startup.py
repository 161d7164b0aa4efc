"""What a command costs before it does anything: nothing heavy is imported for help and lists."""

from __future__ import annotations

import pytest

from tests.helpers import python

HEAVY = ("torch", "transformers", "pydantic", "numpy", "accelerate", "datasets")
CODE = """
import sys
try:
    {statement}
finally:
    print("imported:", *(name for name in {heavy!r} if name in sys.modules))
"""


def imported(statement: str) -> str:
    """Which heavy libraries a process holds after the statement."""
    result = python("-c", CODE.format(statement=statement, heavy=HEAVY))
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].removeprefix("imported:").strip()


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["plan", "--help"],
        ["eval", "--help"],
        ["grade", "--help"],
        ["recipes"],
        ["methods"],
    ],
)
def test_nothing_heavy_is_imported_for_help_and_lists(words: list[str]) -> None:
    statement = f"import srft.cli; sys.argv = ['srft', *{words!r}]; srft.cli.main()"
    assert imported(statement) == ""


def test_nothing_heavy_is_imported_to_complete_a_key() -> None:
    assert imported("from srft.cli.listing import complete_change; complete_change('optim.lr')") == ""


def test_nothing_heavy_is_imported_with_the_package() -> None:
    assert imported("import srft; srft.__version__; import srft.recipe.catalog") == ""


def test_the_test_sees_what_is_imported() -> None:
    assert imported("import pydantic") == "pydantic"
