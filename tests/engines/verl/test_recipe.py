"""Every key of a recipe is read, translated for verl, or refused by name before anything starts. Needs no verl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from srft import SrftError, load_recipe, methods, train
from srft.engines.verl.config import TRANSLATED, settings, split_overrides
from srft.engines.verl.support import NEEDS, READ_HERE, REFUSALS, check
from srft.policy.manifest import write_manifest
from srft.recipe.schema import Recipe
from tests.helpers import command

LENGTH = 512


def keys(schema: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every key of a recipe, sections too."""
    for name, field in schema.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]  # a section may be left out: Section | None
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if name != "stages":
            yield above + name
            for section in sections:
                yield from keys(section, f"{above}{name}.")


def test_no_key_of_a_recipe_is_silently_ignored() -> None:
    known = {*READ_HERE, *TRANSLATED, *(refusal.key for refusal in REFUSALS)}
    sections = {key.rpartition(".")[0] for key in keys(Recipe)}
    values = [key for key in keys(Recipe) if key not in sections]
    assert [key for key in values if not any(key == k or key.startswith(f"{k}.") for k in known)] == []
    assert sorted(known - {*keys(Recipe)}) == []  # nor is any invented


OTHER: dict[str, Any] = {
    "model.path": "other/model", "model.attention": "eager", "model.gradient_checkpointing": True,
    "model.trust_remote_code": True, "rollout.max_response_length": 77, "rollout.max_batch": 7,
    "rollout.vllm.gpu_memory": 0.7, "rollout.vllm.sleep": False, "training.offload": True,
    "data.max_prompt_length": 55, "training.prompts_per_step": 6, "training.tokens_per_micro_batch": 9999,
    "training.precision": "fp32", "training.seed": 5, "optim.weight_decay": 0.3, "optim.betas": [0.8, 0.9],
    "optim.max_grad_norm": 3.0, "optim.lr": 3e-3,
}  # fmt: skip


@pytest.mark.parametrize("key", sorted(TRANSLATED.keys() - {"model.config"}))
def test_a_translated_key_changes_verls_configuration(key: str) -> None:
    base, changed = load_recipe("quickstart"), load_recipe("quickstart", [f"{key}={OTHER[key]}"])
    assert settings(base, LENGTH) != settings(changed, LENGTH)


def test_a_changed_config_is_read_by_trainer_and_servers() -> None:
    recipe = load_recipe("quickstart", ["model.config.rope_theta=40000"])
    found = settings(recipe, LENGTH, Path("/somewhere/config"))
    assert [v for k, v in found.items() if k.endswith("hf_config_path")] == ["/somewhere/config"] * 2


def test_precision_is_the_same_for_policy_and_reference() -> None:
    found = settings(load_recipe("quickstart", ["training.precision=fp32"]), LENGTH)
    policies = [v for k, v in found.items() if k.endswith("mixed_precision")]
    assert policies == [{"param_dtype": "fp32", "reduce_dtype": "fp32"}] * 2


def test_a_reference_is_there_where_the_method_needs_one() -> None:
    key = "actor_rollout_ref.actor.use_kl_loss"
    assert not settings(load_recipe("quickstart-grpo"), LENGTH)[key]
    assert settings(load_recipe("quickstart-grpo", ["method.kl_weight=0.1"]), LENGTH)[key]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("model.lora", "model.lora={rank: 4}"),
        ("model.quantization", "model={lora: {rank: 4}, quantization: nf4}"),
        ("model.revision", "model.revision=abc"),
        ("model.path", "model.path=weights.gguf"),
        ("rollout.engine", "rollout.engine=transformers"),
        ("rollout.server", "rollout.server.urls=[http://gpu1:8000]"),
        ("rollout.vllm.lora", "rollout.vllm.lora=adapters"),
        ("training.shard", "training.shard=false"),
        ("training.device", "training.device=cpu"),
        ("training.checkpoint_async", "training.checkpoint_async=true"),
        ("hooks.buffer", "hooks.buffer.size=4"),
        ("evaluation.statistics", "evaluation.statistics=true"),
        ("evaluation.sets", "evaluation.sets.test.measure=loss"),
        ("data.selection.keep", "data.selection.keep=entropy"),
        ("optim.auxiliary_lr", "optim.auxiliary_lr=1e-3"),
    ],
)
def test_what_verl_cannot_do_is_refused_by_name(key: str, change: str) -> None:
    with pytest.raises(SrftError) as error:
        check(load_recipe("quickstart", [change]))
    assert error.value.where == key
    assert error.value.fix
    stage = load_recipe({"extends": "quickstart", "stages": [{}, {}]})
    check(stage)
    changed = stage.model_copy(update={"stages": (stage.stages[0], load_recipe("quickstart", [change]))})
    with pytest.raises(SrftError, match="verl"):
        check(changed)


def test_every_refusal_is_tried() -> None:
    tried = test_what_verl_cannot_do_is_refused_by_name.pytestmark[0].args[1]
    assert {key for key, _ in tried} == {refusal.key for refusal in REFUSALS}


def where_refused(name: str) -> str:
    try:
        check(load_recipe("quickstart", [f"method.name={name}", "hooks={}"]))
    except SrftError as error:
        return error.where
    return ""


def test_methods_that_need_more_are_refused_by_name() -> None:
    places = {name: where_refused(name) for name in methods()}
    names = {name for name, place in places.items() if place}
    assert {places[name] for name in names} == {"method.name"}
    assert names == {"ppo", "prime", "dpo", "sft-kl"}
    assert all(methods()[name].needs({}) - NEEDS for name in names)


def test_the_command_refuses_before_anything_starts(tmp_path: Path) -> None:
    ran = command("train", "quickstart", "method.name=ppo", "--engine", "verl", "--out", tmp_path / "run")
    assert ran.returncode == 2
    assert "method.name" in ran.stderr
    assert "critic" in ran.stderr
    assert not (tmp_path / "run").exists()
    assert "Did you mean 'verl'?" in command("train", "quickstart", "--engine", "verk").stderr


def test_a_run_of_verl_is_not_continued_without_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/step-000001").mkdir(parents=True)
    (tmp_path / "trainer/step-000001/verl").mkdir(parents=True)
    for folder in ("trainer", "checkpoints"):
        write_manifest(tmp_path / folder / "step-000001")
    (tmp_path / "recipe.yaml").write_text(load_recipe("quickstart", ["training.device=cpu"]).to_yaml())
    with pytest.raises(SrftError, match="--engine verl"):
        train(out=tmp_path, resume=True)


def test_overrides_of_verl_are_its_own() -> None:
    mixed = ["optim.lr=1", "verl.trainer.nnodes=2", "verl.+a.b=c"]
    assert split_overrides(mixed) == (["optim.lr=1"], ["trainer.nnodes=2", "+a.b=c"])
