"""Stages that go from whole weights to LoRA adapters and back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from srft import Recipe, SrftError, load_recipe, train
from srft.policy.load import ModelSettings, load_model
from tests.run.test_train import SMALL, same

pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")

CHANGES = [
    *SMALL, "evaluation.sets={}", "data.limit=16", "method.name=sft", "optim.lr=1e-3", "logging.samples_every=0",
    "training.keep_checkpoints=1",
]  # fmt: skip
ADAPTERS = {"model": {"lora": {"rank": 4}}}
WHOLE = {"model": {"lora": None}}


def staged(*stages: dict[str, Any], steps: int = 2) -> Recipe:
    tree = {"extends": "quickstart", "stages": [{**stage, "training": {"steps": steps}} for stage in stages]}
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
