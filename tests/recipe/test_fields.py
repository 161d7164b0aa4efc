"""The list of a recipe's keys says what the schema says."""

from __future__ import annotations

import json
from typing import Any

from srft.recipe.fields import fields_page, recipe_fields
from srft.recipe.load import load_recipe
from srft.recipe.walk import walk_schema
from tests.helpers import ROOT

LEAST = {"model": {"path": "srft:model"}, "data": {"path": "x.jsonl"}, "training": {"steps": 1}}


def values(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree by dotted key; empty mappings are leaves."""
    leaves = {}
    for key, value in tree.items():
        leaves |= values(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return leaves


def test_the_kept_list_and_the_page_are_those_of_the_schema() -> None:
    """python scripts/recipe_fields.py writes both."""
    assert list(recipe_fields()) == list(walk_schema())
    assert fields_page(recipe_fields()) in (ROOT / "docs/recipe-fields.md").read_text(encoding="utf-8")


def test_defaults_are_those_of_a_recipe_that_says_nothing() -> None:
    """Each leaf of a loaded recipe is a key of the list with its default; a section that is off is one key."""
    loaded = values(load_recipe(LEAST).model_dump(mode="json"))
    listed = {field.key: field for field in recipe_fields()}
    for key in ("model.path", "data.path", "training.steps"):
        del loaded[key]
    assert len(loaded) > 80
    for key, value in loaded.items():
        default = listed[key].default
        assert (default or "{}") == (value if isinstance(value, str) else json.dumps(value)), key


def test_every_key_is_explained() -> None:
    assert [field.key for field in recipe_fields() if not field.description.rstrip(": ")] == []


def test_sections_that_a_name_chooses_list_the_keys_of_all() -> None:
    listed = {field.key: field for field in recipe_fields()}
    assert listed["rollout.prompting.strategy"].type == "plain | hints | thought-patterns"
    assert listed["rollout.prompting.chunks"].description.startswith("hints: ")
    assert listed["model.lora.rank"].type == "int > 0"
    assert listed["data.limit"].type == "int > 0 | null"
    assert listed["evaluation.sets.NAME.path"].default == "required"
