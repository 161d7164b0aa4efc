"""A recipe is strict about its keys and values, and says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from srft import SrftError, load_recipe


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lrr=1", "Did you mean 'lr'?"),
        ("trainin.steps=2", "Did you mean 'training'?"),
        ("steps=3", "Did you mean 'training.steps'?"),
        ("method.wrong_flor=1", "Did you mean 'wrong_floor'?"),
        ("method.name=srtf", "Did you mean 'srft'?"),
        ("method.preset=paper", "method 'srft' has no preset 'paper'"),
        ("method.entropy_scope=tokens", "'entropy_scope'"),
        ("optim.lr=fast", "'optim.lr'"),
        ("optim.lr=-1", "greater than 0"),
        ("rollout.engine=vlm", "'rollout.engine'"),
        ("evaluation.sets.test.limt=3", "Did you mean 'limit'?"),
        ("no-equals-sign", "is not an override"),
        ("rollout.n=0", "rollout.n"),
        ("hooks.bufer.size=3", "Did you mean 'buffer'?"),
        ("hooks.refill.rounds=0", "greater than 0"),
        ("rollout.prompting.strategy=hint", "'rollout.prompting"),
        ("evaluation.sampling.k=3", "unknown key 'evaluation.sampling.k'"),
    ],
)
def test_recipes_are_strict(override: str, expected: str) -> None:
    with pytest.raises(SrftError) as error:
        load_recipe("quickstart", [override])
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: [", "not valid YAML"),
        ("- 1", "a mapping of sections"),
        ("extends: quickstrat", "Did you mean 'quickstart'?"),
        ("data: {path: x}", "'model' is missing"),
    ],
)
def test_recipe_files(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SrftError) as error:
        load_recipe(path)
    assert expected in str(error.value)
    with pytest.raises(SrftError, match="no such file"):
        load_recipe(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "changes",
    [["method.name=sft"], ["method.name=rft"], ["method.name=srft", "method.rollout_signal=binary"]],
    ids=lambda changes: changes[0],
)
@pytest.mark.parametrize("shaping", ["ppl", "position"])
def test_shaping_without_an_advantage_is_refused(changes: list[str], shaping: str) -> None:
    with pytest.raises(SrftError, match="no advantage of rollouts to shape"):
        load_recipe("quickstart", [*changes, f"advantage.{shaping}.alpha=0.1"])


def test_shaping_is_for_the_stages_that_have_an_advantage() -> None:
    recipe = load_recipe("quickstart-sft-then-rl", ["advantage.ppl.alpha=0.1"])
    assert [part.advantage.ppl is not None for part in recipe.parts] == [True, True]


@pytest.mark.parametrize(("name", "words"), [("iw-sft", "reference"), ("sfft", "unknown method 'sfft'")])
def test_the_buffers_method_is_checked_when_the_recipe_is_read(name: str, words: str) -> None:
    with pytest.raises(SrftError, match=words):
        load_recipe("quickstart", [f"hooks.buffer.method={name}"])


def test_a_correction_needs_the_whole_distribution() -> None:
    with pytest.raises(SrftError, match="top_p"):
        load_recipe("quickstart", ["rollout.correction=tis", "rollout.top_p=0.9"])


def test_a_method_is_srft_where_a_recipe_names_none() -> None:
    tree = {"extends": "quickstart", "method": {"scale_sft": 0.3}}
    assert load_recipe(tree, ["method.name=srft"]).method.options["scale_sft"] == 0.3
    tree = {"model": {"path": "srft:model"}, "data": {"path": "srft:arithmetic/train.jsonl"}, "training": {"steps": 1},
            "method": {"scale_sft": 0.3}}  # fmt: skip
    assert load_recipe(tree, ["method.name=srft"]).method.options == {"scale_sft": 0.3}
