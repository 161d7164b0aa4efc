"""Loading models and tokenizers through transformers' Auto classes: hub ids, folders, GGUF files, changed configs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from srft.data.load import resolve_path
from srft.errors import SrftError, did_you_mean
from srft.policy.adapters import (
    LoraSettings,
    adapters_base,
    base_in_run,
    has_adapters,
    merged,
    read_adapters,
    with_adapters,
)
from srft.policy.finite import check_finite, non_finite
from srft.policy.pretrained import check_weights, from_pretrained
from srft.policy.saved import model_folder
from srft.section import Section

MASTER_DTYPE = torch.float32
WHOLE: dict[str, Any] = {"lora": None, "quantization": None}  # changes to settings: the model without adapters


class ModelSettings(Section):
    """Which model, and what is changed about it."""

    path: str = Field(
        description="hub id, folder (whole weights or LoRA adapters), run directory (its best checkpoint if it keeps "
        "one, else its newest), .gguf file, or `srft:model` for the one that ships in the package"
    )
    revision: str | None = Field(None, description="of a model on the hub")
    config: dict[str, Any] = Field({}, description="changes to the model's config.json, e.g. rope_theta: 40000")
    attention: str | None = Field(None, description="transformers' attn_implementation; its own choice if left out")
    gradient_checkpointing: bool = Field(
        False, description="compute activations anew in the backward pass: less memory, more time"
    )
    lora: LoraSettings | None = None
    quantization: Literal["nf4"] | None = Field(
        None, description="4-bit base weights under LoRA adapters (QLoRA), by bitsandbytes on a GPU"
    )
    trust_remote_code: bool = Field(False, description="run the code that comes with a model of the hub")

    @field_validator("path")
    @classmethod
    def _checkpoint_of_a_run(cls, path: str) -> str:
        return model_folder(path)

    @model_validator(mode="after")
    def _adapters_on_what_is_quantized(self) -> ModelSettings:
        if self.quantization and self.lora is None:
            raise ValueError("`quantization` is of a base under LoRA adapters, and `lora` is not set")
        return self


def check_quantization(settings: ModelSettings, device: torch.device) -> None:
    """Raises SrftError where the settings quantize and this machine cannot."""
    if settings.quantization is None:
        return
    where = f"model.quantization: {settings.quantization}"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SrftError("it needs the package bitsandbytes", where=where, fix="pip install 'srft[qlora]'")
    if device.type != "cuda":
        fix = "Train on a machine with one, or set model.quantization: null."
        raise SrftError("it needs an NVIDIA GPU, and training is on the CPU", where=where, fix=fix)
    if has_adapters(Path(resolve_path(settings.path))):
        fix = "Export it with --merge first, and give that folder as model.path."
        raise SrftError("model.path holds LoRA adapters, which cannot be merged into 4 bits", where=where, fix=fix)


def load_config(settings: ModelSettings) -> PretrainedConfig:
    """The model's config with the settings' changes applied.

    Raises:
        SrftError: the model is not found, is no causal LM's, or has no such key.
    """
    whole = whole_model(settings)
    return change_config(from_pretrained(AutoConfig, whole.path, **_source(whole)), whole)


def change_config(config: PretrainedConfig, settings: ModelSettings) -> PretrainedConfig:
    """The config, with the settings' changes made in place. `rope_theta` reaches transformers' rope parameters.

    Raises:
        SrftError: it has no such key.
    """
    for key, value in settings.config.items():
        rope = getattr(config, "rope_parameters", None)
        if key == "rope_theta" and isinstance(rope, dict):
            config.rope_parameters = {**rope, "rope_theta": value}
        elif hasattr(config, key):
            setattr(config, key, value)
        else:
            raise SrftError(
                f"the config of {settings.path} has no '{key}'",
                where=f"model.config.{key}",
                fix=did_you_mean(key, config.to_dict()),
            )
    return config


def config_changes(settings: ModelSettings) -> dict[str, Any]:
    """The settings' changes by the names that transformers keeps them under, for another reader of the same config."""
    whole = whole_model(settings)
    config = load_config(whole)
    names = {"rope_parameters" if key == "rope_theta" else key for key in whole.config}
    return {name: getattr(config, name) for name in sorted(names)}


def load_tokenizer(settings: ModelSettings) -> Any:
    """The tokenizer of the model; of adapters that were saved without one, that of what they stand on."""
    folder = Path(resolve_path(settings.path))
    if has_adapters(folder) and not (folder / "tokenizer_config.json").is_file():
        return load_tokenizer(_adapters_base(settings) or settings)
    return from_pretrained(AutoTokenizer, settings.path, **_source(settings))


def stop_token_ids(tokenizer: Any, model: Any) -> set[int]:
    """Whatever ends a response: the tokenizer's EOS and those of the model's generation config."""
    also = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return {int(tokenizer.eos_token_id), *(also if isinstance(also, list) else [also] if also is not None else [])}


def pad_token_id(tokenizer: Any) -> int:
    """What fills a batch; EOS where the tokenizer has none of its own, as padding is never read."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def load_model(settings: ModelSettings, checkpoint: Path | None = None) -> Any:
    """A causal LM with float32 master weights, with LoRA adapters as its only trainable weights where the settings ask
    for them.

    Args:
        checkpoint: a folder that `Policy.save` wrote, whose weights take the place of the model's own: whole weights,
            or adapters, which go on being trained where the settings have LoRA and are merged where they have not.

    Raises:
        SrftError: the model or the checkpoint cannot be loaded, or holds NaN or infinity; the checkpoint's adapters are
            of another shape.
    """
    resumed = checkpoint if settings.lora and checkpoint and has_adapters(checkpoint) else None
    begun_on = base_in_run(resumed) if resumed else checkpoint
    model = _prepared(_load_whole(settings, begun_on), settings, begun_on)
    if resumed:
        read_adapters(model, resumed)
    where = f"model.path: {settings.path}" if checkpoint is None else str(checkpoint)
    check_finite(non_finite(model), where, "The file is damaged, or its training diverged: take another checkpoint.")
    return model


def empty_model(settings: ModelSettings, dtype: torch.dtype = MASTER_DTYPE) -> Any:
    """A model as `load_model` gives it, on the meta device: shapes without values."""
    config = load_config(settings)
    extra = {"attn_implementation": settings.attention} if settings.attention else {}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=settings.trust_remote_code, **extra
        )
        model.tie_weights()
        return _prepared(model, settings, None)


def _prepared(model: Any, settings: ModelSettings, checkpoint: Path | None) -> Any:
    """The model, which is the `checkpoint` or the settings' own, with gradient checkpointing and adapters where the
    settings ask for them."""
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.lora is None:
        return model
    base = Path(resolve_path(settings.path)) if checkpoint is None else checkpoint
    return with_adapters(
        model,
        settings.lora,
        base=str(base.absolute()) if base.exists() else settings.path,
        revision=settings.revision if checkpoint is None else None,
        config=settings.config,
    )


def whole_model(settings: ModelSettings) -> ModelSettings:
    """The settings of what holds the model's config and whole weights: themselves, or of what its adapters stand on.

    Raises:
        SrftError: adapters stand on themselves.
    """
    seen, base = [settings.path], _adapters_base(settings)
    while base is not None:
        if base.path in seen:
            fix = "Write the model that they were trained on into its adapter_config.json."
            raise SrftError("its adapters stand on themselves", where=f"model.path: {settings.path}", fix=fix)
        seen.append(base.path)
        settings, base = base, _adapters_base(base)
    return settings


def _adapters_base(settings: ModelSettings) -> ModelSettings | None:
    """The settings of what the model's adapters stand on; None where the model has whole weights."""
    folder = Path(resolve_path(settings.path))
    if not has_adapters(folder):
        return None
    base = adapters_base(folder)
    changes = {"path": base.path, "revision": base.revision, "config": {**base.config, **settings.config}}
    return settings.model_copy(update=changes)


def _load_whole(settings: ModelSettings, checkpoint: Path | None) -> Any:
    """The settings' model, or a checkpoint in its place; adapters are merged into what they stand on."""
    if checkpoint is not None and has_adapters(checkpoint):
        return merged(_load_whole(settings, base_in_run(checkpoint)), checkpoint)
    if checkpoint is None and (base := _adapters_base(settings)):
        return merged(_load_whole(base, None), Path(resolve_path(settings.path)))
    path = settings.path if checkpoint is None else str(checkpoint)
    source = _source(settings) if checkpoint is None else {"trust_remote_code": settings.trust_remote_code}
    config = change_config(from_pretrained(AutoConfig, path, **source), settings)
    extra: dict[str, Any] = {"attn_implementation": settings.attention} if settings.attention else {}
    if settings.quantization:
        extra |= {"quantization_config": _quantization(), "device_map": {"": torch.cuda.current_device()}}
    if not path.endswith(".gguf"):
        check_weights(resolve_path(path))
        extra["use_safetensors"] = True
    model, report = from_pretrained(
        AutoModelForCausalLM, path, config=config, dtype=MASTER_DTYPE, output_loading_info=True, **source, **extra
    )
    if missing := sorted(report["missing_keys"]):
        raise SrftError(
            f"{len(missing)} of its weights are not in its files, {missing[0]} among them",
            where=f"model.path: {path}",
            fix="Fetch or save it anew: they would be drawn at random.",
        )
    if settings.quantization or getattr(model.config, "quantization_config", None) is None:
        return model
    return _unquantized(model)


def _quantization() -> Any:
    """QLoRA's: NF4 with quantized scales, computed in bf16."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _source(settings: ModelSettings) -> dict[str, Any]:
    return {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}


def _unquantized(model: Any) -> Any:
    """A copy that can be saved: weights read from GGUF are dequantised, but their model still refuses."""
    config = model.config
    del config.quantization_config
    fresh: Any = type(model)(config)
    fresh.to(MASTER_DTYPE)
    fresh.load_state_dict(model.state_dict())
    fresh.generation_config = model.generation_config
    return fresh
