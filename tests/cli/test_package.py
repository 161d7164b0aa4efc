"""The package in Python: its public names, their completion and their types."""

from __future__ import annotations

import re

import srft
from tests.cli.test_startup import imported
from tests.helpers import ROOT, python

INIT = ROOT / "src/srft/__init__.py"


def test_the_public_names_are_listed_and_there() -> None:
    assert set(srft.__all__) | {"__version__"} <= set(dir(srft))
    for name in srft.__all__:
        assert getattr(srft, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    block = INIT.read_text().split("if TYPE_CHECKING:")[1].split("\n\n", 1)[0]
    assert set(re.findall(r"import (\w+) as \1", block)) == set(srft.__all__)
    assert (INIT.parent / "py.typed").is_file()


def test_listing_the_names_loads_nothing_heavy() -> None:
    assert imported("import srft; assert 'train' in dir(srft)") == ""


def test_a_script_can_complete_and_import_all() -> None:
    result = python("-c", "from srft import *; print(train.__name__, Callback.__name__, srft.name)")
    assert result.stdout.split() == ["train", "Callback", "srft"], result.stderr
