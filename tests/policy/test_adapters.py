"""LoRA adapters as models: what they stand on, with which config, and what is told where that is gone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srft.data import resolve_path
from srft.errors import SrftError
from srft.policy import adapters, load
from srft.policy.forward import Policy
from srft.policy.load import (
    LoraSettings,
    ModelSettings,
    check_quantization,
    config_changes,
    load_config,
    load_model,
    load_tokenizer,
)
from tests.helpers import weights

pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")


def save(settings: ModelSettings, folder: Path, tokenizer: Any) -> dict[str, torch.Tensor]:
    """Adapters that change something, saved; the weights of the model with them merged in."""
    policy = Policy(load_model(settings))
    torch.manual_seed(len(folder.name))
    with torch.no_grad():
        for parameter in (p for p in policy.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter) * 0.02)
    policy.save(folder, tokenizer)
    return {name: value.clone() for name, value in policy.weights()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=1e-5)


def test_adapters_keep_the_changes_to_their_bases_config(tmp_path: Path, tokenizer: Any) -> None:
    """A checkpoint of adapters is evaluated with the rope_theta that they were trained with, unless told otherwise."""
    changes = {"rope_theta": 40000.0, "max_position_embeddings": 2048}
    expected = save(ModelSettings(path="srft:model", lora=LoraSettings(rank=4), config=changes), tmp_path, tokenizer)
    settings = ModelSettings(path=str(tmp_path))
    assert load_config(settings).rope_parameters["rope_theta"] == 40000
    assert set(config_changes(settings)) == {"rope_parameters", "max_position_embeddings"}  # what vLLM is told
    model = load_model(settings)
    assert model.config.max_position_embeddings == 2048
    assert_equal(model.state_dict(), expected)
    other = ModelSettings(path=str(tmp_path), config={"rope_theta": 7.0})
    assert load_config(other).rope_parameters["rope_theta"] == 7
    assert load_config(other).max_position_embeddings == 2048


def test_adapters_on_adapters(tmp_path: Path, tokenizer: Any) -> None:
    """Fresh adapters on a checkpoint of adapters stand on both."""
    save(ModelSettings(path="srft:model", lora=LoraSettings(rank=4)), tmp_path / "first", tokenizer)
    settings = ModelSettings(path=str(tmp_path / "first"), lora=LoraSettings(rank=2))
    expected = save(settings, tmp_path / "elsewhere/second", tokenizer)
    assert_equal(load_model(ModelSettings(path=str(tmp_path / "elsewhere/second"))).state_dict(), expected)


def test_a_base_named_by_a_relative_path_is_found_from_elsewhere(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(ModelSettings(path="srft:model")).save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    expected = save(ModelSettings(path="base", lora=LoraSettings(rank=4)), tmp_path / "adapters", tokenizer)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_equal(load_model(ModelSettings(path="../adapters")).state_dict(), expected)


def test_a_base_that_is_gone_is_told(tmp_path: Path, tokenizer: Any) -> None:
    save(ModelSettings(path="srft:model", lora=LoraSettings(rank=4)), tmp_path, tokenizer)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    for base, message in (("/gone/model", "/gone/model, which is not there"), (None, "does not say")):
        file.write_text(json.dumps(config | {"base_model_name_or_path": base}))
        with pytest.raises(SrftError, match=message) as error:
            load_config(ModelSettings(path=str(tmp_path)))
        assert error.value.where == str(file)
        assert "base_model_name_or_path" in error.value.fix
    file.write_text(json.dumps(config | {"base_model_name_or_path": resolve_path("srft:model")}))
    assert load_config(ModelSettings(path=str(tmp_path))).model_type == "qwen2"


def test_adapters_without_a_tokenizer_take_their_bases(tmp_path: Path, tokenizer: Any) -> None:
    load_model(ModelSettings(path="srft:model", lora=LoraSettings(rank=4))).save_pretrained(tmp_path)
    found = load_tokenizer(ModelSettings(path=str(tmp_path)))
    assert found.get_vocab() == tokenizer.get_vocab()
    assert found.chat_template == tokenizer.chat_template


def test_quantization_needs_adapters_a_gpu_and_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="`lora` is not set"):
        ModelSettings(path="srft:model", quantization="nf4")
    settings = ModelSettings(path="srft:model", lora=LoraSettings(), quantization="nf4")
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SrftError, match=r"srft\[qlora\]"):
        check_quantization(settings, torch.device("cuda"))
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: SimpleNamespace())
    with pytest.raises(SrftError, match="NVIDIA GPU"):
        check_quantization(settings, torch.device("cpu"))
    check_quantization(settings, torch.device("cuda"))


def test_quantized_weights_reach_a_sampler_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """With layers whose weights are kept otherwise, as bitsandbytes does, and beside them what they are read with."""
    policy = Policy(load_model(ModelSettings(path="srft:model", lora=LoraSettings(target_modules=["q_proj"]))))
    expected = {name: value.clone() for name, value in policy.weights()}
    assert expected.keys() == weights(resolve_path("srft:model")).keys()
    linear = {name: m for name, m in policy.causal_lm.named_modules() if name.endswith(("base_layer", "up_proj"))}
    kept = {id(module): module.weight.detach().clone() for module in linear.values()}
    state = policy.causal_lm.state_dict

    def packed() -> dict[str, torch.Tensor]:
        scales = {f"{name}.weight.absmax": torch.ones(1) for name in linear}
        return state() | {f"{name}.weight": torch.zeros(1, dtype=torch.uint8) for name in linear} | scales

    monkeypatch.setattr(policy.causal_lm, "state_dict", packed)
    monkeypatch.setattr("srft.policy.forward.is_quantized", lambda module: id(module) in kept)
    monkeypatch.setattr("srft.policy.forward.dequantized", lambda module: kept[id(module)])
    assert_equal(dict(policy.weights()), expected)
    assert not any(adapters.is_quantized(module) for module in policy.modules())
