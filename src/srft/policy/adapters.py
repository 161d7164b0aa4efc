"""LoRA adapters: put on a model, saved, read back, and what they stand on."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from srft.data.files import parse_json, read_text, write_json
from srft.errors import SrftError, reason
from srft.policy.manifest import check_manifest
from srft.section import Section, check_file_name

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"  # peft's, in a folder that holds adapters alone
BASE = "adapter_base.json"  # ours, beside it: {"base": a checkpoint of the same run, "config": changes to the config}


class LoraSettings(Section):
    """Low-rank adapters as the only trainable weights."""

    rank: int = Field(16, gt=0, description="of the adapters (TRL: 16)")
    alpha: int = Field(32, gt=0, description="adapters are scaled by alpha / rank (TRL: 32)")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the adapters' input")
    target_modules: str | list[str] = Field("all-linear", description="peft's: layers that have adapters")


def has_adapters(folder: Path) -> bool:
    """The folder holds adapters and not whole weights."""
    return os.path.isfile(folder / CONFIG)  # False of a name that no file can have, too


@dataclass(frozen=True)
class AdaptersBase:
    """What adapters stand on.

    Args:
        path: a folder, a .gguf file or a hub id.
        revision: on the hub.
        config: changes to its config.json that the adapters were trained with.
    """

    path: str
    revision: str | None
    config: Mapping[str, Any]


def base_in_run(checkpoint: Path) -> Path | None:
    """The checkpoint of the same run that these adapters stand on; None where they stand on the recipe's model.

    Raises:
        SrftError: it is gone.
    """
    name = _read(checkpoint / BASE).get("base")
    if name is None:
        return None
    try:
        base = checkpoint.parent / check_file_name(str(name))
    except ValueError as error:
        fix = "Name a checkpoint of the same folder there."
        raise SrftError(str(error), where=str(checkpoint / BASE), fix=fix) from None
    if not base.is_dir():
        raise SrftError(
            f"its adapters stand on {base.name}, which is gone",
            where=str(checkpoint),
            fix=f"Put that checkpoint back beside it ({base}).",
        )
    return base


def adapters_base(folder: Path) -> AdaptersBase:
    """What the adapters in a folder stand on: a checkpoint of the same run, else the model that they were begun on.

    Raises:
        SrftError: it is gone, or named nowhere.
    """
    config, ours = _read(folder / CONFIG), _read(folder / BASE)
    base = base_in_run(folder)
    path, revision = (str(base), None) if base else (config.get("base_model_name_or_path"), config.get("revision"))
    if not path or not isinstance(path, str) or (Path(path).is_absolute() and not Path(path).exists()):
        raise SrftError(
            f"its adapters stand on {path}, which is not there" if path else "it does not say what they stand on",
            where=str(folder / CONFIG),
            fix="Write the folder or hub id of that model there, as base_model_name_or_path.",
        )
    return AdaptersBase(path, revision, ours.get("config", {}))


def save_base(model: Any, folder: Path) -> None:
    """Write what peft does not of a model's adapters into their folder: that their base is a neighbour of it, and the
    changes to the base's config."""
    (config,) = model.peft_config.values()
    base = Path(config.base_model_name_or_path)
    ours: dict[str, Any] = {"config": model.config_changes} if model.config_changes else {}
    if base.is_dir() and base.resolve().parent == folder.resolve().parent:
        ours["base"] = base.name
    if ours:
        write_json(folder / BASE, ours)


def with_adapters(model: Any, lora: LoraSettings, *, base: str, revision: str | None, config: Mapping[str, Any]) -> Any:
    """The model with fresh adapters, all else frozen.

    Args:
        base, revision, config: what the model is, for those who read the adapters: see `AdaptersBase`.

    Raises:
        SrftError: peft is not installed.
    """
    _check_peft("model.lora")
    from peft import LoraConfig, get_peft_model

    model.enable_input_require_grads()
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    adapted: Any = get_peft_model(model, settings)
    for known in adapted.peft_config.values():
        known.base_model_name_or_path, known.revision = base, revision
    adapted.config_changes = dict(config)
    return adapted


def read_adapters(model: Any, folder: Path) -> None:
    """Take the adapters in a folder into a model that has adapters.

    Raises:
        SrftError: they are damaged, or of another shape.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    check_manifest(folder)
    try:
        result: Any = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
        different = result.unexpected_keys or [name for name in result.missing_keys if "lora_" in name]
    except RuntimeError as error:  # another rank
        different = [str(error).splitlines()[-1].strip()]
    saved = _read(folder / CONFIG)
    (config,) = model.peft_config.values()
    if different or saved.get("lora_alpha") != config.lora_alpha:
        raise SrftError(
            f"its adapters have another shape: rank {saved.get('r')}, alpha {saved.get('lora_alpha')}"
            + (f"; {different[0]}" if different else ""),
            where=str(folder),
            fix="Keep model.lora as it is from stage to stage.",
        )


def merged(model: Any, folder: Path) -> Any:
    """The model with the adapters in a folder added into its weights, all of them trainable.

    Raises:
        SrftError: peft is not installed; they are pickled, damaged or of another model.
    """
    check_manifest(folder)
    _check_peft(str(folder))
    from peft import PeftModel

    if not (folder / WEIGHTS).is_file():
        fix = "Save them by a peft that writes safetensors; pickled ones (.bin) could run code when they are read."
        raise SrftError(f"its adapters are not in {WEIGHTS}", where=str(folder), fix=fix)
    try:
        whole = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except Exception as error:  # peft, safetensors and torch raise many kinds
        what = f"its adapters could not be loaded: {reason(error)}"
        raise SrftError(what, where=str(folder), fix="Fetch or save them anew.") from error
    return whole.requires_grad_(True)  # peft froze what the adapters stood on


def is_quantized(module: Any) -> bool:
    """Whether the weight of a layer is in 4 bits, by bitsandbytes."""
    return type(getattr(module, "weight", None)).__name__ == "Params4bit"


def dequantized(module: Any) -> Tensor:
    """The weight of a layer that `is_quantized`, as its computation sees it."""
    from peft.utils.integrations import dequantize_module_weight

    return dequantize_module_weight(module).data


def _read(file: Path) -> dict[str, Any]:
    """A file of ours or of peft's; empty where there is none."""
    if not file.is_file():
        return {}
    if not isinstance(value := parse_json(read_text(file), str(file)), dict):
        raise SrftError("not an object", where=str(file), fix="Fetch or save the adapters anew.")
    return value


def _check_peft(where: str) -> None:
    if importlib.util.find_spec("peft") is None:
        raise SrftError("LoRA needs the package peft", where=where, fix="pip install 'srft[lora]'")
