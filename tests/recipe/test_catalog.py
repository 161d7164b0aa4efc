"""Recipes in files: names, variants, what a file extends, and the text to copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from srft.errors import SrftError
from srft.objective import methods
from srft.recipe.catalog import list_recipes, read_recipe
from srft.recipe.load import load_recipe
from srft.recipe.text import recipe_text

METHODS = sorted(name for name, method in methods().items() if method.function.__module__.startswith("srft."))
NAMES = list(list_recipes())
FILE = """
summary: The base
x-optim: &optim {lr: 0.5}
name: family
model: {path: srft:model}
data: {path: rows.jsonl}
method: {name: srft, preset: paper-zh}   # the base's
training: {steps: 3}
variants:
  rl:
    summary: A variant
    method: {name: grpo}
    optim: *optim
  rl-long:
    extends: rl
    method: {max_prob: 0.5}   # a fact
    training: {steps: 9}
  empty:
"""


@pytest.fixture
def family(tmp_path: Path) -> Path:
    file = tmp_path / "family.yaml"
    file.write_text(FILE)
    return file


def test_a_variant_is_a_change_to_the_file(family: Path) -> None:
    base, rl, long = (load_recipe(f"{family}{ending}") for ending in ("", ":rl", ":rl-long"))
    assert (base.name, rl.name, long.name) == ("family", "family-rl", "family-rl-long")
    assert base.method.options == {"preset": "paper-zh"} or base.method.preset == "paper-zh"
    assert (rl.method.name, rl.method.preset, rl.optim.lr, rl.training.steps) == ("grpo", None, 0.5, 3)
    assert (long.method.name, long.method_options["max_prob"], long.optim.lr, long.training.steps) == (
        "grpo",
        0.5,
        0.5,
        9,
    )
    tree = read_recipe(f"{family}:empty")
    assert set(tree) == {"name", "model", "data", "method", "training"}


def test_a_recipe_extends_a_variant_from_anywhere(family: Path) -> None:
    assert load_recipe({"extends": "quickstart-grpo", "name": "x"}).method.name == "grpo"
    (family.parent / "folder").mkdir()
    child = family.parent / "folder/child.yaml"
    child.write_text("extends: ../family.yaml:rl-long\ntraining: {steps: 4}\n")
    recipe = load_recipe(child)
    assert (recipe.name, recipe.training.steps, recipe.optim.lr) == ("child", 4, 0.5)
    child.write_text("extends: quickstart-psft-then-rl\n")
    assert load_recipe(child).model_copy(update={"name": "", "stages": ()}) == load_recipe(
        "quickstart-psft-then-rl"
    ).model_copy(update={"name": "", "stages": ()})


@pytest.mark.parametrize(
    ("text", "ending", "expected"),
    [
        ("extends: mine.yaml", "", "extends itself by way of"),
        ("variants: {a: {extends: b}, b: {extends: a}}", ":a", "extends itself"),
        ("variants: {grpo: {}}", ":grop", "Did you mean 'grpo'?"),
        ("variants: {a: {extends: grop}, grpo: {}}", ":a", "Did you mean 'grpo'?"),
        ("variants: [grpo]", "", "'variants' is not a mapping"),
        ("variants: {grpo: 3}", "", "'variants' is not a mapping"),
    ],
)
def test_errors(tmp_path: Path, text: str, ending: str, expected: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SrftError) as error:
        load_recipe(f"{tmp_path / 'mine.yaml'}{ending}")
    assert expected in str(error.value)
    assert error.value.fix


def test_every_recipe_loads_under_its_name_and_says_what_it_is() -> None:
    for name, summary in list_recipes().items():
        assert load_recipe(name).name == name
        assert len(summary) > 20, name


def test_a_family_without_a_summary_is_no_recipe() -> None:
    with pytest.raises(SrftError, match=r"no recipe 'qwen2\.5-math-7b'"):
        load_recipe("qwen2.5-math-7b")


def test_every_method_has_a_quickstart() -> None:
    """A recipe on the package's own model; tests/recipe/test_papers.py looks after those at a paper's scale."""
    recipes = [load_recipe(name) for name in NAMES]
    own = [recipe for recipe in recipes if recipe.model.path == "srft:model"]
    assert {part.method.name for recipe in own for part in recipe.parts} == set(METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_a_recipe_needs_no_other_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(recipe_text(name))
    one, other = read_recipe(file), read_recipe(name)
    assert one == other | {"name": "mine"}


def test_the_text_keeps_the_comments_of_the_values_that_count() -> None:
    assert "lr: 1.0e-06   # the schedule is not published: constant" in recipe_text("qwen2.5-7b-instruct-psft")
    sft = recipe_text("qwen2.5-7b-instruct-sft")
    assert "# the schedule is not published" not in sft
    assert "steps: 700   # the checkpoint that the paper reports" in sft
    assert "of App. B; the figure names none" in recipe_text("qwen2.5-math-7b-sft-n-then-rl")
    assert "# The published form (preset paper-en" in recipe_text("quickstart")
    assert "published form" not in recipe_text("quickstart-grpo")
