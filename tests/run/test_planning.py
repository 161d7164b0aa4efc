"""Estimates beside what they estimate: parameters, allocations traced through real models, published step times."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig
from typer.testing import CliRunner

from benchmarks.memory import CPU, estimated, setup_of, traced
from benchmarks.published_steps import AMD, PUBLISHED, Published
from srft.cli import app
from srft.errors import SrftError
from srft.policy.load import LoraSettings, ModelSettings, load_config, load_model
from srft.recipe.load import load_recipe
from srft.run.estimate import Estimate, check_size, estimate_on
from srft.run.planning import plan_recipe
from srft.run.sizing.advice import advise, fits
from srft.run.sizing.hardware import GPUS, Device
from srft.run.sizing.memory import memory
from srft.run.sizing.setup import Lengths, Setup
from srft.run.sizing.shape import MODELS, known_config, shape_of
from srft.run.sizing.step_time import step_seconds, stop_rate
from tests.helpers import python

SMALL = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6,
         "num_key_value_heads": 2, "vocab_size": 350, "tie_word_embeddings": True}  # fmt: skip
WIDE = {"hidden_size": 1792, "intermediate_size": 9472, "num_hidden_layers": 3, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": False}  # fmt: skip
HEADS = {"hidden_size": 1280, "intermediate_size": 4864, "num_hidden_layers": 3, "num_attention_heads": 16,
         "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 1000, "tie_word_embeddings": False}  # fmt: skip


def sized(
    *changes: str, device: Device = GPUS["h100-80"], devices: int = 1, recipe: str = "qwen2.5-math-7b-srft"
) -> Estimate:
    chosen = load_recipe(recipe, changes)
    return estimate_on(chosen, Lengths.assumed(chosen), device, devices)


@pytest.mark.parametrize(
    ("model", "published"),
    [  # as the models' cards on the hub count them
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-Math-7B", 7_615_616_512),
        ("Qwen/Qwen3-4B-Base", 4_022_468_096),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Llama-3.1-70B", 70_553_706_496),
    ],
)
def test_known_models_have_as_many_parameters_as_published(model: str, published: int) -> None:
    config = known_config(ModelSettings(path=model))
    assert config is not None
    assert shape_of(config).parameters == published


def test_every_packaged_recipe_is_planned_without_its_model() -> None:
    for name in ("qwen2.5-math-7b-grpo", "qwen2.5-7b-instruct-psft", "qwen3-4b-base-psft-then-dpo"):
        for part in load_recipe(name).parts:
            assert part.model.path in MODELS


def test_a_token_meets_the_chosen_experts_alone() -> None:
    config = AutoConfig.for_model(
        "qwen3_moe", hidden_size=64, intermediate_size=128, moe_intermediate_size=32, num_hidden_layers=2, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2, num_experts=8, num_experts_per_tok=2, vocab_size=100,
    )  # fmt: skip
    shape = shape_of(config)
    assert shape.parameters - shape.active == 2 * (8 - 2) * 3 * 64 * 32  # layers, idle experts, three matrices each


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_adapters_are_counted_as_peft_makes_them(targets: Any) -> None:
    settings = ModelSettings(path="srft:model", lora=LoraSettings(rank=3, target_modules=targets))
    made = sum(p.numel() for p in load_model(settings).parameters() if p.requires_grad)
    assert shape_of(load_config(settings), settings.lora).trainable == made


def test_weights_gradients_and_moments_are_exact() -> None:
    recipe = load_recipe("quickstart")
    model = load_model(recipe.model)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    update = memory(estimate_on(recipe, Lengths.assumed(recipe), CPU).setup)["update"]
    assert update["weights"] == sum(p.nbytes for p in model.parameters())
    assert update["gradients"] == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = [x for state in optimizer.state.values() for name, x in state.items() if name != "step"]
    assert update["optimizer"] == sum(x.nbytes for x in moments)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("kind", "sizes", "rows", "length"),
    [("qwen2", SMALL, 8, 128), ("qwen2", WIDE, 4, 1024), ("qwen3", HEADS, 2, 2048), ("llama", WIDE, 8, 512)],
)
def test_activations_are_as_traced(
    tmp_path: Path, kind: str, sizes: dict[str, Any], rows: int, length: int, bf16: bool, checkpointing: bool
) -> None:
    config = AutoConfig.for_model(kind, **sizes)
    config.save_pretrained(tmp_path)
    case = rows, length, bf16, checkpointing
    assert estimated(setup_of(str(tmp_path), *case)) == pytest.approx(traced(config, *case), rel=0.1)


def test_the_state_is_divided_and_the_check_knows_it(tmp_path: Path) -> None:
    alone, eight = sized(), sized(devices=8)
    assert eight.setup.shard
    for part in ("weights", "gradients", "optimizer"):
        assert eight.memory["update"][part] == alone.memory["update"][part] / 8
    assert eight.memory["update"]["activations"] == alone.memory["update"]["activations"]
    check_size(Estimate(replace(eight.setup, keep_checkpoints=-1)), tmp_path)  # whatever the disk here
    with pytest.raises(SrftError, match=r"the run needs about 1\d\d\.\d GiB of GPU memory per process") as error:
        check_size(alone, tmp_path)
    assert "--gpus" in error.value.fix


def test_a_small_model_is_not_divided() -> None:
    assert not sized(devices=8, recipe="quickstart").setup.shard


def test_a_vllm_that_holds_no_response_is_told(tmp_path: Path) -> None:
    with pytest.raises(SrftError, match="do not hold the model and its longest response") as error:
        check_size(sized(device=GPUS["l4"], devices=8), tmp_path)
    assert "rollout.vllm.gpu_memory=" in error.value.fix


def test_vllm_on_a_cpu_holds_a_small_model(tmp_path: Path) -> None:
    cpu = Device("CPU", 8 * 2**30, 1e11, 1e10, 1e10, 1e10, is_gpu=False)
    check_size(sized("rollout.engine=vllm", device=cpu, recipe="quickstart"), tmp_path)


def test_each_single_piece_of_advice_is_enough() -> None:
    changes = ["model.path=Qwen/Qwen2.5-1.5B", "model.config={}", "model.gradient_checkpointing=false",
               "training.tokens_per_micro_batch=32768", "rollout.max_response_length=2048"]  # fmt: skip
    size = sized(*changes)
    assert not size.fits
    advice = advise(size.setup)
    keys = [text for text in advice.alone if text.startswith(("model.gradient", "training.tokens"))]
    assert len(keys) == 2
    for text in keys:
        assert sized(*changes, text).fits
    tokens = int(keys[1].partition("=")[2])
    assert not sized(*changes, f"training.tokens_per_micro_batch={tokens + 512}").fits


def with_changes(setup: Setup, changes: Iterable[str]) -> Setup:
    """Keys keep in `Setup` the names that they have in a recipe."""
    values = {key.rpartition(".")[2]: yaml.safe_load(value) for key, _, value in (c.partition("=") for c in changes)}
    return replace(setup, **values, shard=setup.shard or "offload" in values)


@pytest.mark.parametrize(("gpu", "gpus"), [("a100-40", 1), ("l4", 8), ("rtx4090", 2)])
def test_advice_for_several_changes_is_enough_and_none_is_to_spare(gpu: str, gpus: int) -> None:
    setup = sized(device=GPUS[gpu], devices=gpus).setup
    together = advise(setup).together
    assert len(together) > 1
    assert fits(with_changes(setup, together))
    for change in together:
        assert not fits(with_changes(setup, set(together) - {change})), change


def test_responses_end_as_often_as_their_mean_says() -> None:
    draw, mean, limit = random.Random(0), 300.0, 1000
    rate = stop_rate(mean, limit)
    drawn = [min(draw.expovariate(rate), limit) for _ in range(200_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.01)


def changed(setup: Setup, **values: Any) -> dict[str, float]:
    return step_seconds(replace(setup, **values))


def test_time_follows_the_work() -> None:
    setup = sized(devices=8).setup
    step = step_seconds(setup)
    halved = changed(setup, ranks=16)
    assert halved["training"] == pytest.approx(step["training"] / 2, rel=0.01)
    assert halved["sampling"] < step["sampling"]
    assert changed(setup, gradient_checkpointing=False)["training"] == pytest.approx(step["training"] * 3 / 4)
    lora = replace(setup.shape, trainable=16 * setup.shape.adapters)
    assert changed(setup, shape=lora)["training"] == pytest.approx(step["training"] * 3 / 4)  # no gradient of weights
    slow = replace(setup.device, bandwidth=setup.device.bandwidth / 4)
    assert changed(setup, device=slow)["sampling"] > 2 * step["sampling"]
    assert changed(setup, device=slow)["training"] == step["training"]
    linked = replace(setup.device, flops=math.inf, link=1e9)
    gathered = changed(setup, device=linked)["training"]  # bound by the links
    assert gathered > 5 * changed(setup, device=replace(linked, link=math.inf, network=math.inf))["training"]
    assert changed(setup, device=linked, tokens_per_micro_batch=2 * setup.micro_batch)["training"] < gathered


@pytest.mark.parametrize(
    "row", [row for row in PUBLISHED if row.source != AMD], ids=lambda row: f"{row.source} {row.gpu}"
)
def test_published_steps_of_present_systems(row: Published) -> None:
    assert 0.75 < row.ratio < 1.25


@pytest.mark.parametrize(
    "row", [row for row in PUBLISHED if row.source == AMD], ids=lambda row: f"{row.work} {row.gpu}"
)
def test_published_steps_of_early_2025_are_twice_ours(row: Published) -> None:
    assert 0.4 < row.ratio < 0.6


def test_the_flagship_recipe_on_eight_h100() -> None:
    words = ["plan", "qwen2.5-math-7b-srft", "--gpus", "8", "--gpu", "h100-80", "--price", "2"]
    output = CliRunner().invoke(app, words, catch_exceptions=False).output
    for text in ("7615.6 M parameters", "8 × h100-80", "divided over 8 processes", "vLLM beside", "the data was not read",
                 "activations", "500 steps, 11 evaluations", "It fits"):  # fmt: skip
        assert text in output
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    (stage,) = json.loads(result.output)["stages"]
    assert stage["fits"]
    assert 10 < stage["hours"] < 200
    assert stage["device_hours"] == pytest.approx(8 * stage["hours"])
    assert stage["total_memory_bytes"] == max(sum(parts.values()) for parts in stage["memory_bytes"].values())


def test_given_lengths_and_problems_are_used() -> None:
    recipe = load_recipe("qwen2.5-math-7b-sft")
    (assumed,) = plan_recipe(recipe, "h100-80", 8)
    (given,) = plan_recipe(recipe, "h100-80", 8, response_tokens=1024, problems=12_800)
    assert assumed.setup.steps is None
    assert given.setup.steps == 3 * 12_800 / 128
    assert given.step["training"] < assumed.step["training"] / 2
    assert given.setup.lengths.response == 1024
    assert "responses of 1024 tokens" in given.setup.lengths.origin


def test_data_that_is_here_is_read_and_stages_are_summed() -> None:
    result = CliRunner().invoke(app, ["plan", "quickstart-sft-then-dpo", "--gpu", "l4"], catch_exceptions=False)
    for text in ("stage 1 of 2: sft", "stage 2 of 2: dpo", "prompts measured in the data", "all stages: about"):
        assert text in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quickstart", "--gpu", "h100"], "no GPU 'h100' in the table"),
        (["quickstart", "model.path=some/model", "--gpu", "l4"], "could not load it"),
    ],
)
def test_what_cannot_be_planned_is_told(words: list[str], message: str) -> None:
    with pytest.raises(SrftError, match=message):
        CliRunner().invoke(app, ["plan", *words], catch_exceptions=False)


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "most"), [(2048, 1.33), (16384, 1.8)])
def test_a_real_run_takes_the_memory_that_was_estimated(tmp_path: Path, tokens: int, most: float) -> None:
    """At most: a step of quickstart has fewer tokens than 16,384, prompts counted once."""
    code = f"""
import resource
from srft.recipe.load import load_recipe
import srft.run.train as train
check, sizes = train.check_size, []
train.check_size = lambda size, out: (sizes.append(size.total_memory), check(size, out))
changes = ["training.steps=1", "training.tokens_per_micro_batch={tokens}", "evaluation.sets={{}}", "training.device=cpu"]
train.train(load_recipe("quickstart", changes), "{tmp_path}/run")
print(sizes[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    result = python("-c", code)
    assert result.returncode == 0, result.stderr
    estimated, peak = map(float, result.stdout.split()[-2:])
    assert 0.75 < estimated / peak < most
