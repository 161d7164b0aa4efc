"""Stages that go from whole weights to LoRA adapters and back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from srft import Recipe, SrftError, load_recipe, train
from srft.evaluation.run import evaluate
from srft.policy.load import ModelSettings, load_config, load_model
from srft.recipe.load import load_evaluation
from tests.run.test_train import SMALL, same

pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")

CHANGES = [
    *(word for word in SMALL if not word.startswith("training.steps")), "evaluation.sets={}", "data.limit=16",
    "optim.lr=1e-3", "logging.samples_every=0", "training.keep_checkpoints=1",
]  # fmt: skip
ALONE = [*CHANGES, "method.name=sft", "training.steps=2", "optim.schedule=constant", "optim.warmup=0"]
ADAPTERS = {"model": {"lora": {"rank": 4}}}
WHOLE = {"model": {"lora": None}}


def staged(*stages: dict[str, Any], steps: int = 2) -> Recipe:
    sft = {"method": {"name": "sft"}, "training": {"steps": steps}}
    tree = {"extends": "quickstart", "stages": [{**stage, **sft} for stage in stages]}
    return load_recipe(tree, CHANGES)


def has_adapters(checkpoint: Path) -> bool:
    return (checkpoint / "adapter_config.json").exists()


def whole_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_model(ModelSettings(path="srft:model"), checkpoint).state_dict()


def with_last(recipe: Recipe, section: str, **values: Any) -> Recipe:
    """The recipe, with other values in a section of its last stage."""
    last = recipe.stages[-1]
    changed = getattr(last, section).model_copy(update=values)
    return recipe.model_copy(update={"stages": (*recipe.stages[:-1], last.model_copy(update={section: changed}))})


@pytest.mark.parametrize(
    ("stages", "adapters"),
    [
        pytest.param([WHOLE, ADAPTERS], True, id="whole, LoRA"),
        pytest.param([ADAPTERS, WHOLE], False, id="LoRA, whole"),
        pytest.param([WHOLE, ADAPTERS, WHOLE], False, id="whole, LoRA, whole"),
        pytest.param([ADAPTERS, ADAPTERS], True, id="LoRA, LoRA"),
        pytest.param([WHOLE, ADAPTERS, ADAPTERS], True, id="whole, LoRA, LoRA"),
    ],
)
def test_each_stage_begins_where_the_one_before_ended(
    tmp_path: Path, stages: list[dict[str, Any]], adapters: bool
) -> None:
    """Seen by a last stage whose updates are too small to move a weight."""
    recipe = staged(*stages)
    before = train(with_last(recipe, "training", steps=0), tmp_path / "before").directory.checkpoint
    after = train(with_last(recipe, "optim", lr=1e-12), tmp_path / "after").directory.checkpoint
    assert before.name < after.name
    assert has_adapters(after) == adapters
    base = load_model(ModelSettings(path="srft:model")).state_dict()
    ended, begun = whole_weights(before), whole_weights(after)
    assert max(float((ended[name] - base[name]).abs().max()) for name in base) > 1e-4
    for name in base:
        torch.testing.assert_close(begun[name], ended[name], atol=1e-6, rtol=1e-6)


def test_a_stage_on_adapters_resumes_and_its_run_may_be_moved(tmp_path: Path) -> None:
    recipe = staged(WHOLE, ADAPTERS, steps=3)
    whole = train(recipe, tmp_path / "whole")
    train(with_last(recipe, "training", steps=1), tmp_path / "parts")
    shutil.move(tmp_path / "parts", tmp_path / "moved")
    same(whole, train(recipe, tmp_path / "moved", resume=True))


def test_adapters_of_another_shape_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(SrftError, match="other LoRA adapters"):
        train(staged(ADAPTERS, {"model": {"lora": {"rank": 8}}}), tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_adapters_may_stand_on_another_runs_checkpoint(tmp_path: Path) -> None:
    """Whose name is that of the run's own: it resumes on the other's weights, not on itself."""
    base = train(load_recipe("quickstart", [*ALONE, "model.lora=null"]), tmp_path / "base").directory.checkpoint
    changes = [*ALONE, f"model.path={base}", "model.lora.rank=4"]
    whole = train(load_recipe("quickstart", [*changes, "training.steps=3"]), tmp_path / "whole")
    parts = train(load_recipe("quickstart", changes), tmp_path / "parts")
    assert parts.directory.checkpoint.name == base.name
    same(whole, train(load_recipe("quickstart", [*changes, "training.steps=3"]), tmp_path / "parts", resume=True))


def test_a_checkpoint_of_adapters_is_a_model(tmp_path: Path) -> None:
    """For the next run, for an evaluation and for `Run.load`, with the recipe's config."""
    run = train(staged(WHOLE, ADAPTERS), tmp_path / "run")
    checkpoint = run.directory.checkpoint
    merged = whole_weights(checkpoint)
    assert not any("lora_" in name for name in merged)
    settings = ModelSettings(path=str(checkpoint))
    for name, value in load_model(settings).state_dict().items():
        assert torch.equal(value, merged[name])
    assert load_config(settings).model_type == load_config(ModelSettings(path="srft:model")).model_type
    for name, value in run.load().state_dict().items():
        assert torch.equal(value, merged[name])
    file = tmp_path / "problems.jsonl"
    file.write_text('{"prompt": "Start with 3, add 4. What is the result?", "answer": "7"}\n')
    recipe = load_evaluation(str(checkpoint), [f"benchmarks={file}", "template=chat", "sampling.n=2",
                                               "sampling.max_response_length=16"])  # fmt: skip
    assert evaluate(recipe, out=tmp_path / "evaluation")["benchmarks"]["problems"]["samples"] == 2


def test_a_base_that_is_gone_is_an_error(tmp_path: Path) -> None:
    run = train(staged(WHOLE, ADAPTERS), tmp_path / "run")
    first, last = run.directory.checkpoints
    assert has_adapters(last)
    shutil.rmtree(first)
    with pytest.raises(SrftError, match="stand on step-000002, which is gone"):
        load_model(ModelSettings(path=str(last)))


def test_adapters_on_other_modules_are_refused(tmp_path: Path) -> None:
    changes = [*ALONE, "model.lora.rank=4"]
    train(load_recipe("quickstart", [*changes, "model.lora.target_modules=[q_proj]"]), tmp_path / "run")
    with pytest.raises(SrftError, match="goes on with the model that it has") as error:
        train(load_recipe("quickstart", [*changes, "training.steps=3"]), tmp_path / "run", resume=True)
    assert "model.lora.target_modules: ['q_proj'] → all-linear" in error.value.what
