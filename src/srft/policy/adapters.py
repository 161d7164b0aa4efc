"""LoRA adapters: put on a model, saved, read back, and what they stand on."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from pydantic import Field

from srft.errors import SrftError
from srft.section import Section

CONFIG = "adapter_config.json"  # peft's, in a folder that holds adapters alone
BASE = "adapter_base.json"  # ours: the checkpoint of the same run that the adapters stand on, as {"base": its name}


class LoraSettings(Section):
    """Low-rank adapters as the only trainable weights."""

    rank: int = Field(16, gt=0, description="of the adapters (TRL: 16)")
    alpha: int = Field(32, gt=0, description="adapters are scaled by alpha / rank (TRL: 32)")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the adapters' input")
    target_modules: str | list[str] = Field("all-linear", description="peft's: layers that have adapters")


def has_adapters(folder: Path) -> bool:
    """The folder holds adapters and not whole weights."""
    return (folder / CONFIG).is_file()


def base_in_run(checkpoint: Path) -> Path | None:
    """The checkpoint of the same run that these adapters stand on; None where they stand on the recipe's model.

    Raises:
        SrftError: it is gone.
    """
    if not (checkpoint / BASE).is_file():
        return None
    base = checkpoint.parent / json.loads((checkpoint / BASE).read_text(encoding="utf-8"))["base"]
    if not base.is_dir():
        raise SrftError(
            f"its adapters stand on {base.name}, which is gone",
            where=str(checkpoint),
            fix=f"Put that checkpoint back beside it ({base}).",
        )
    return base


def base_path(folder: Path) -> str:
    """What the adapters in a folder stand on: a checkpoint of the same run, else the model that they were begun on."""
    base = base_in_run(folder)
    return str(base or json.loads((folder / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])


def save_base(model: Any, folder: Path) -> None:
    """Write what the adapters of a peft model stand on into a checkpoint's folder, where that is a neighbour of it."""
    (config,) = model.peft_config.values()
    base = Path(config.base_model_name_or_path or "")
    if base.is_dir() and base.resolve().parent == folder.resolve().parent:
        (folder / BASE).write_text(json.dumps({"base": base.name}) + "\n", encoding="utf-8")


def with_adapters(model: Any, lora: LoraSettings) -> Any:
    """The model with fresh adapters, all else frozen.

    Raises:
        SrftError: peft is not installed.
    """
    _check_peft("model.lora")
    from peft import LoraConfig, get_peft_model

    model.enable_input_require_grads()
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def read_adapters(model: Any, folder: Path) -> None:
    """Take the adapters in a folder into a model that has adapters.

    Raises:
        SrftError: they are of another shape.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    try:
        result: Any = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
        different = result.unexpected_keys or [name for name in result.missing_keys if "lora_" in name]
    except RuntimeError as error:  # another rank
        different = [str(error).splitlines()[-1].strip()]
    saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (config,) = model.peft_config.values()
    if different or saved["lora_alpha"] != config.lora_alpha:
        raise SrftError(
            f"its adapters have another shape: rank {saved['r']}, alpha {saved['lora_alpha']}"
            + (f"; {different[0]}" if different else ""),
            where=str(folder),
            fix="Keep model.lora as it is from stage to stage.",
        )


def merged(model: Any, folder: Path) -> Any:
    """The model with the adapters in a folder added into its weights, all of them trainable."""
    _check_peft(str(folder))
    from peft import PeftModel

    whole = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return whole.requires_grad_(True)  # peft froze what the adapters stood on


def _check_peft(where: str) -> None:
    if importlib.util.find_spec("peft") is None:
        raise SrftError("LoRA needs the package peft", where=where, fix="pip install 'srft[lora]'")
