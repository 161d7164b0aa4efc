"""A recipe is strict about its keys and values, and says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command

from srft import SrftError, load_recipe, methods
from srft.cli import app
from srft.recipe.aliases import ALIASES, key_of
from srft.recipe.fields import recipe_fields
from srft.recipe.load import load_evaluation


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lrr=1", "Did you mean 'lr'?"),
        ("trainin.steps=2", "Did you mean 'training.steps'"),
        ("steps=3", "Did you mean 'training.steps' ("),
        ("lr=3", "Did you mean 'optim.lr' (learning rate"),
        ("optim.LR=3", "Did you mean 'optim.lr'"),
        ("Optim.lr=3", "Did you mean 'optim.lr'"),
        ("method.name=GRPO", "Did you mean 'grpo'?"),
        ("learning_rate=3", "Did you mean 'optim.lr'"),
        ("optim.learning_rate=3", "Did you mean 'optim.lr'"),
        ("training.num_train_epochs=3", "Did you mean 'training.epochs'"),
        ("rollout.max-new-tokens=3", "Did you mean 'rollout.max_response_length'"),
        ("output_dir=runs/x", "It is the option --out."),
        ("method.kl_coef=0.1", "unknown key 'kl_coef'"),
        ("actor_rollout_ref.rollout.n=4", "Did you mean 'rollout.n'"),
        ("actor_rollout_ref.actor.optim.lr=4", "Did you mean 'optim.lr'"),
        ("algorithm.adv_estimator=grpo", "Did you mean 'method.name'"),
        ("data.train_files=x", "Did you mean 'data.path'"),
        ("kl_coef=0.1", "Did you mean 'method.kl_weight'?"),
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
        ("hooks.bufer.size=3", "Did you mean 'hooks.buffer.size'"),
        ("hooks.refill.rounds=0", "greater than 0"),
        ("rollout.prompting.strategy=hint", "'rollout.prompting"),
        ("evaluation.sampling.k=3", "unknown key 'evaluation.sampling.k'"),
    ],
)
def test_recipes_are_strict(override: str, expected: str) -> None:
    with pytest.raises(SrftError) as error:
        load_recipe("quickstart", [override])
    assert expected in str(error.value)


@pytest.mark.parametrize("alias", ALIASES)
def test_another_librarys_name_leads_to_a_key_that_there_is(alias: str) -> None:
    target = ALIASES[alias]
    options = {f"method.{name}" for method in methods().values() for name in method.options}
    parameters = {word for parameter in get_command(app).commands["train"].params for word in parameter.opts}  # type: ignore[attr-defined]
    assert target in {field.key for field in recipe_fields()} | options | parameters
    assert key_of(alias) == key_of(f"--{alias}".lstrip("-").upper().replace("_", "-")) == target


def test_a_methods_option_by_another_name() -> None:
    with pytest.raises(SrftError, match="Did you mean 'kl_weight'"):
        load_recipe("quickstart-grpo", ["method.kl_coef=0.1"])


def test_an_evaluations_key_by_another_name() -> None:
    for name, key in (("max_new_tokens", "sampling.max_response_length"), ("temperature", "sampling.temperature")):
        with pytest.raises(SrftError, match=f"Did you mean '{key}'"):
            load_evaluation("srft:model", [f"{name}=1"])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optim.lr=1e-5", 1e-5),
        ("optim.lr=5E-4", 5e-4),
        ("model.gradient_checkpointing=yes", True),
        ("model.gradient_checkpointing=True", True),
        ("evaluation.at_start=off", False),
        ("data.limit=None", None),
        ("data.limit=null", None),
        ("optim.betas=[0.9, 0.95]", (0.9, 0.95)),
        ("optim.betas=0.9,0.95", (0.9, 0.95)),
        ("logging.trackers=wandb", ["wandb"]),
        ("logging.trackers=[wandb, tensorboard]", ["wandb", "tensorboard"]),
        ("logging.trackers=wandb,tensorboard", ["wandb", "tensorboard"]),
        ("logging.trackers=[]", []),
        ("rollout.server.urls=http://a:1,http://b:2", ("http://a:1", "http://b:2")),
        ("evaluation.benchmarks=math500,gsm8k", ["math500", "gsm8k"]),
    ],
)
def test_values_as_people_write_them(override: str, value: object) -> None:
    section, _, key = override.partition("=")[0].rpartition(".")
    node = load_recipe("quickstart", [override])
    for word in section.split("."):
        node = getattr(node, word)
    assert getattr(node, key) == value


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
