"""Models that strangers made: a damaged, pickled or foreign one is an error that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from srft.data import resolve_path
from srft.errors import SrftError
from srft.policy.load import ModelSettings, load_config, load_model, load_tokenizer

WEIGHTS = "model.safetensors"


def overlapping(data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    first, second = [name for name in header if name != "__metadata__"][:2]
    header[first]["data_offsets"] = header[second]["data_offsets"]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def without_one(data: bytes) -> bytes:
    tensors = load(data)
    tensors.pop("model.layers.3.self_attn.q_proj.weight")
    return save(tensors, metadata={"format": "pt"})


def of_another_shape(data: bytes) -> bytes:
    tensors = load(data)
    tensors["model.layers.3.self_attn.q_proj.weight"] = torch.zeros(3, 192)
    return save(tensors, metadata={"format": "pt"})


def with_config(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), **changes}).encode()


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        (WEIGHTS, lambda data: data[: len(data) // 2], "file not fully covered"),
        (WEIGHTS, lambda data: b"\xff" * 7 + b"\x7f" + data[8:], "header too large"),
        (WEIGHTS, overlapping, "invalid offset"),
        (WEIGHTS, without_one, "1 of its weights are not in its files, model.layers.3.self_attn.q_proj.weight"),
        (WEIGHTS, of_another_shape, "other shapes than its config.json says"),
        ("tokenizer.json", lambda data: data[:5000], "AutoTokenizer could not load it"),
        ("tokenizer_config.json", lambda data: b"[1]", "AutoTokenizer could not load it"),
        ("config.json", lambda data: b"[1]", "could not load it"),
        ("config.json", lambda data: b'{"a":' * 5000, "could not load it"),
        ("config.json", with_config(hidden_size=-1), "negative dimension"),
        ("config.json", with_config(vocab_size=10**9), "other shapes than its config.json says"),
        ("config.json", with_config(model_type=[1]), "could not load it"),
        (
            "config.json",
            with_config(model_type="mine", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"}),
            "it comes with code of its own, which is not run",
        ),
    ],
)
def test_damaged_folders(tmp_path: Path, file: str, change: Callable[[bytes], bytes], expected: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_path("srft:model"), folder)
    (folder / "c.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (folder / file).write_bytes(change((folder / file).read_bytes()))
    settings = ModelSettings(path=str(folder))
    with pytest.raises(SrftError) as error:
        [read(settings) for read in (load_config, load_tokenizer, load_model)]
    assert expected in str(error.value)
    assert ("model.trust_remote_code=true" in error.value.fix) == ("code of its own" in expected)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_path("srft:model"), folder)
    torch.save(load((folder / WEIGHTS).read_bytes()), folder / name)
    assert load_model(ModelSettings(path=str(folder)))  # beside safetensors, which alone are read
    (folder / WEIGHTS).unlink()
    with pytest.raises(SrftError, match=rf"its weights are pickled \({name}\)") as error:
        load_model(ModelSettings(path=str(folder)))
    assert "convert them to safetensors" in error.value.fix


@pytest.mark.parametrize("path", ["a" * 5000, "~nobody-here/x", "a\0b", "a" * 5000 + ".gguf"])
def test_names_that_are_none(path: str) -> None:
    for read in (load_config, load_tokenizer, load_model):
        with pytest.raises(SrftError):
            read(ModelSettings(path=path))


def adapters(folder: Path, config: Any, base: Any = None) -> ModelSettings:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if base is not None:
        (folder / "adapter_base.json").write_text(json.dumps({"base": base}))
    return ModelSettings(path=str(folder))


def test_adapters(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = {"base_model_name_or_path": resolve_path("srft:model"), "peft_type": "LORA", "task_type": "CAUSAL_LM"}
    for config, expected in [("{", "malformed JSON"), ([1], "not an object"), ({}, "does not say"), ({**base, "base_model_name_or_path": 3}, "which is not there")]:  # fmt: skip
        with pytest.raises(SrftError, match=expected):
            load_model(adapters(tmp_path / "a", config))
    with pytest.raises(SrftError, match="cannot name a file"):
        load_model(adapters(tmp_path / "b", base, base="../../elsewhere"))
    with pytest.raises(SrftError, match="its adapters stand on themselves"):
        load_config(adapters(tmp_path / "c", {**base, "base_model_name_or_path": str(tmp_path / "c")}))
    settings = adapters(tmp_path / "d", base)
    torch.save({}, tmp_path / "d/adapter_model.bin")
    with pytest.raises(SrftError, match=r"its adapters are not in adapter_model\.safetensors"):
        load_model(settings)
    (tmp_path / "d/adapter_model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(SrftError, match="its adapters could not be loaded"):
        load_model(settings)


def test_a_cut_gguf_file(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 40)
    with pytest.raises(SrftError, match="could not load it"):
        load_config(ModelSettings(path=str(file)))
