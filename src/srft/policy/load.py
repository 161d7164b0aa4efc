"""Models and tokenizers through transformers' Auto classes: hub ids, folders, GGUF files, and changes to the config."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from srft.data import resolve_path
from srft.errors import SrftError, did_you_mean

MASTER_DTYPE = torch.float32


def load_config(
    path: str, *, changes: Mapping[str, Any] = {}, revision: str | None = None, trust_remote_code: bool = False
) -> PretrainedConfig:
    """The model's config with `changes` applied. `rope_theta` reaches transformers' rope parameters.

    Raises:
        SrftError: the model is not found, is no causal LM's, or has no such key.
    """
    config = _pretrained(AutoConfig, path, revision=revision, trust_remote_code=trust_remote_code)
    for key, value in changes.items():
        rope = getattr(config, "rope_parameters", None)
        if key == "rope_theta" and isinstance(rope, dict):
            config.rope_parameters = {**rope, "rope_theta": value}
        elif hasattr(config, key):
            setattr(config, key, value)
        else:
            raise SrftError(
                f"the config of {path} has no '{key}'",
                where=f"model.config.{key}",
                fix=did_you_mean(key, config.to_dict()),
            )
    return config


def load_tokenizer(path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer that lies beside the model."""
    return _pretrained(AutoTokenizer, path, revision=revision, trust_remote_code=trust_remote_code)


def stop_tokens(tokenizer: Any, model: Any) -> set[int]:
    """Whatever ends a response: the tokenizer's EOS and those of the model's generation config."""
    also = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return {int(tokenizer.eos_token_id), *(also if isinstance(also, list) else [also] if also is not None else [])}


def pad_token(tokenizer: Any) -> int:
    """What fills a batch; EOS where the tokenizer has none of its own, as padding is never read."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def load_model(
    path: str,
    *,
    changes: Mapping[str, Any] = {},
    attention: str | None = None,
    gradient_checkpointing: bool = False,
    lora: Mapping[str, Any] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal LM with float32 master weights, optionally with LoRA adapters as its only trainable weights."""
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = load_config(path, changes=changes, **options)
    extra = {"attn_implementation": attention} if attention else {}
    model = _pretrained(AutoModelForCausalLM, path, config=config, dtype=MASTER_DTYPE, **options, **extra)
    if getattr(model.config, "quantization_config", None) is not None:
        model = _unquantized(model)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if lora:
        model = _with_lora(model, lora)
    return model


def _pretrained(factory: Any, path: str, **options: Any) -> Any:
    resolved = resolve_path(path)
    if resolved.endswith(".gguf"):
        file = Path(resolved)
        if not file.is_file():
            raise SrftError("no such file", where=f"model.path: {path}", fix="Check the path.")
        if importlib.util.find_spec("gguf") is None:
            raise SrftError("reading GGUF needs the package gguf", where=path, fix="pip install 'srft[smollm2]'")
        resolved, options = str(file.parent), {**options, "gguf_file": file.name}
    try:
        return factory.from_pretrained(resolved, **{k: v for k, v in options.items() if v is not None})
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SrftError(
            f"{factory.__name__} could not load it: {str(error).splitlines()[0]}",
            where=f"model.path: {path}",
            fix="Give a hub id that this machine can reach, or a folder in Hugging Face format.",
        ) from error


def _unquantized(model: Any) -> Any:
    """A copy that can be saved: weights read from GGUF are dequantised, but their model still refuses."""
    config = model.config
    del config.quantization_config
    fresh: Any = type(model)(config)
    fresh.to(MASTER_DTYPE)
    fresh.load_state_dict(model.state_dict())
    fresh.generation_config = model.generation_config
    return fresh


def _with_lora(model: PreTrainedModel, lora: Mapping[str, Any]) -> Any:
    if importlib.util.find_spec("peft") is None:
        raise SrftError("LoRA needs the package peft", where="model.lora", fix="pip install 'srft[lora]'")
    from peft import LoraConfig, get_peft_model

    model.enable_input_require_grads()
    settings = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=lora["target_modules"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings)
