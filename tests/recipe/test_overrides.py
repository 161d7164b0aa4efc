"""What an override means beyond its own key: other methods' settings, stages, keys that exclude one another."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import yaml

from srft import SrftError, load_recipe
from srft.recipe.catalog import list_recipes, read_recipe


def lengths(name: str, *overrides: str) -> list[tuple[int | None, float | None]]:
    """Steps and epochs of each stage."""
    return [(part.training.steps, part.training.epochs) for part in load_recipe(name, overrides).parts]


def test_an_override_reaches_every_stage_and_says_what_it_replaced() -> None:
    assert lengths("quickstart-sft-then-rl") == [(None, 5), (40, None)]
    assert lengths("quickstart-sft-then-rl", "training.steps=2") == [(2, None), (2, None)]
    notes = load_recipe("quickstart-sft-then-rl", ["training.steps=2"]).notes
    assert notes == (
        "training.steps=2 for every stage, in place of epochs 5 (stage 1), steps 40 (stage 2); "
        "for one alone: stages.0.training.steps=2",
    )
    assert load_recipe("quickstart-sft-then-rl", ["rollout.n=2"]).notes == ()  # no stage says anything of it


def test_an_override_of_one_stage_comes_last_in_any_order() -> None:
    words = ["training.steps=2", "stages.1.training.steps=7", "stages.0.optim.lr=0.5", "optim.lr=0.25"]
    for order in permutations(words):
        parts = load_recipe("quickstart-sft-then-rl", order).parts
        assert [(part.training.steps, part.optim.lr) for part in parts] == [(2, 0.5), (7, 0.25)]


def test_a_stage_is_not_given_another_methods_option() -> None:
    recipe = load_recipe("quickstart-sft-then-rl", ["method.max_prob=0.9", "method.aggregation=token-mean"])
    assert [part.method.options for part in recipe.parts] == [
        {"aggregation": "token-mean"},
        {"max_prob": 0.9, "aggregation": "token-mean"},
    ]


def test_another_method_of_one_stage_keeps_the_options_of_all() -> None:
    words = ["method.aggregation=token-sum", "stages.0.method.name=dft"]
    for order in permutations(words):
        parts = load_recipe("quickstart-sft-then-rl", order).parts
        assert [(part.method.name, part.method.options) for part in parts] == [
            ("dft", {"aggregation": "token-sum"}),
            ("grpo", {"aggregation": "token-sum"}),
        ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method.name=grpo", "stages.0.method.name=grpo"),
        ("method.max_pro=1", "unknown key 'max_pro'"),
        ("stages.2.training.steps=1", "stages.0., stages.1."),
        ("stages.first.training.steps=1", "stages.0., stages.1."),
    ],
)
def test_what_no_stage_can_take_is_refused(override: str, expected: str) -> None:
    with pytest.raises(SrftError) as error:
        load_recipe("quickstart-sft-then-rl", [override])
    assert expected in str(error.value)


def test_a_stage_of_a_recipe_without_any_is_refused() -> None:
    with pytest.raises(SrftError, match="no stages"):
        load_recipe("quickstart", ["stages.0.optim.lr=1"])


@pytest.mark.parametrize("extra", [["method.max_prob=0.9"], ["method.max_prob=0.9", "method.clip_low=0.1"]])
def test_the_order_of_a_method_and_its_options_plays_no_part(extra: list[str]) -> None:
    options = {word.partition("=")[0].removeprefix("method."): float(word.partition("=")[2]) for word in extra}
    for order in permutations(["method.name=grpo", *extra]):
        assert load_recipe("gsm8k-smollm2", order).method.options == options


def test_steps_clear_epochs_and_the_reverse() -> None:
    assert lengths("quickstart", "training.epochs=2") == [(None, 2)]
    assert lengths("quickstart-sft", "training.steps=3") == [(3, None)]
    assert lengths("quickstart-sft", "training.epochs=None", "training.steps=3") == [(3, None)]
    with pytest.raises(SrftError, match="give one of `steps` and `epochs`"):
        load_recipe("quickstart", ["training.epochs=2", "training.steps=3"])


def test_a_path_clears_a_mix_and_the_reverse() -> None:
    mixed = load_recipe("quickstart", ["data.mix=[{path: a.jsonl}, {path: b.jsonl}]"])
    assert (mixed.data.path, len(mixed.data.mix)) == (None, 2)
    tree = yaml.safe_load(mixed.to_yaml())
    assert load_recipe(tree) == mixed
    assert load_recipe(tree, ["data.path=c.jsonl"]).data.mix == ()


def test_a_method_takes_the_settings_of_its_variant() -> None:
    """Every variant of quickstart that is called as its method is what `quickstart method.name=…` trains."""
    checked = 0
    for name in list_recipes():
        method = name.removeprefix("quickstart-")
        if name.startswith("quickstart-") and not read_recipe(name).get("stages") and load_recipe(name).title == method:
            changed = load_recipe("quickstart", [f"method.name={method}", "optim.warmup=0.25"])
            assert changed.model_dump() == load_recipe(name, ["optim.warmup=0.25"]).model_dump()
            assert changed.notes == (f"method.name={method}: with the settings of {name}",)
            checked += 1
    assert checked > 18
    assert load_recipe("qwen2.5-math-7b-srft", ["method.name=sft"]).name == "qwen2.5-math-7b-sft"
    assert load_recipe("quickstart-sft", ["method.name=srft"]).name == "quickstart"


def test_a_method_without_a_variant_of_its_name_says_whose_settings_it_has() -> None:
    recipe = load_recipe("quickstart", ["method.name=chord"])
    assert recipe.optim == load_recipe("quickstart").optim
    (note,) = recipe.notes
    assert "made for srft" in note
    assert "quickstart-chord-mu, quickstart-chord-phi" in note


def test_the_variant_of_a_users_own_file_is_taken_too(tmp_path: Path) -> None:
    file = tmp_path / "qwen2.5-mine.yaml"
    file.write_text(
        "extends: quickstart\nvariants:\n  sft: {method: {name: sft}, optim: {lr: 0.5}}\n  grpo: {optim: {lr: 0.25}}\n"
    )
    assert load_recipe(file, ["method.name=sft"]).optim.lr == 0.5
    assert load_recipe(file, ["method.name=grpo"]).optim.lr == 5e-4  # that variant does not train by grpo
    assert (load_recipe(file).name, load_recipe(f"{file}:sft").name) == ("qwen2.5-mine", "qwen2.5-mine-sft")


def test_an_empty_section_clears_what_is_beneath_and_before_it() -> None:
    mine = "evaluation.sets.mine.path=x.jsonl"
    assert list(load_recipe("quickstart", ["evaluation.sets={}"]).evaluation.sets) == []
    assert list(load_recipe("quickstart", ["evaluation.sets={}", mine]).evaluation.sets) == ["mine"]
    assert list(load_recipe("quickstart", [mine, "evaluation.sets={}"]).evaluation.sets) == []
    assert list(load_recipe("quickstart", [mine]).evaluation.sets) == ["test", "ood", "mine"]
