"""What is packaged agrees with itself: the tested versions with what the package asks for, the citation with the version."""

from __future__ import annotations

import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TESTED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
EXTRAS = ("docs", "lora", "reasoning-gym", "tensorboard", "test")


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_tested_versions_are_those_that_the_package_asks_for(extra: str) -> None:
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    for requirement in map(Requirement, lines):
        if (name := canonicalize_name(requirement.name)) != "srft":
            assert TESTED[name] in requirement.specifier, requirement


def test_tested_versions_are_those_of_an_index() -> None:
    assert not [version for version in TESTED.values() if "+" in version]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
