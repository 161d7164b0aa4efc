"""A run's model as a plain folder that loads anywhere, with a model card; and, where that is asked for, on the hub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal

import torch

from srft.data.files import write_text
from srft.errors import SrftError, reason
from srft.policy.adapters import base_in_run, has_adapters
from srft.policy.load import WHOLE, ModelSettings, load_model, load_tokenizer
from srft.policy.manifest import MANIFEST, check_manifest
from srft.policy.saved import CHECKPOINTS
from srft.recipe.load import load_recipe
from srft.recipe.schema import Recipe
from srft.run.model_card import model_card
from srft.training.run_dir import RunDir

DType = Literal["bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def export(
    run: str | Path,
    out: str | Path,
    *,
    merge: bool = False,
    dtype: DType = "bf16",
    checkpoint: str | int = "last",
    push_to_hub: str | None = None,
    private: bool = True,
) -> Path:
    """Write a run's model into a folder in Hugging Face format: weights in safetensors files, config, generation
    config, tokenizer with its chat template, and a model card. Nothing of the trainer is in it.

    Args:
        run: its directory.
        out: the folder to make.
        merge: add LoRA adapters into the weights that they stand on; else they are exported as adapters, in the
            precision that they were trained in.
        dtype: of the weights.
        checkpoint: "best" (by the recipe's `training.best`), "last" or a step.
        push_to_hub: a repository of models to upload the folder to, created where it is missing.
        private: whether one that is created is private.

    Returns:
        the checkpoint that was exported.

    Raises:
        SrftError: there is no such run or checkpoint; `out` is there already; the model is damaged or cannot be
            loaded; the hub refuses.
    """
    directory, folder = RunDir(run), Path(out)
    if not (directory.path / "recipe.yaml").is_file():
        raise SrftError("no run is here", where=str(run), fix="Name a run directory, e.g. runs/quickstart-….")
    if folder.exists():
        raise SrftError("it is there already", where=f"--out {folder}", fix="Name another folder.")
    chosen = _chosen(directory, checkpoint)
    check_manifest(chosen)
    recipe = load_recipe(directory.path / "recipe.yaml")
    adapters_alone = has_adapters(chosen) and not merge
    if adapters_alone and base_in_run(chosen) is not None:
        raise SrftError(
            "its LoRA adapters stand on another checkpoint of the run",
            where=str(chosen),
            fix="Export whole weights with --merge.",
        )
    if push_to_hub is not None:
        _create_repository(push_to_hub, private)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer = load_tokenizer(ModelSettings(path=str(chosen)))
    if adapters_alone:
        shutil.copytree(chosen, partial, ignore=shutil.ignore_patterns(MANIFEST))  # it is of the run's checkpoint
    else:
        load_trained(recipe, chosen).to(DTYPES[dtype]).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    name = push_to_hub or folder.name
    write_text(partial / "README.md", model_card(directory, recipe, chosen, tokenizer, name, adapters_alone))
    os.replace(partial, folder)
    if push_to_hub is not None:
        _upload(folder, push_to_hub)
    return chosen


def load_trained(recipe: Recipe, checkpoint: Path) -> Any:
    """The model of a run's checkpoint, a transformers causal LM in float32; LoRA adapters are merged into it."""
    return load_model(recipe.parts[-1].model.model_copy(update=WHOLE), checkpoint)


def _chosen(run: RunDir, checkpoint: str | int) -> Path:
    if checkpoint == "best":
        return run.best_checkpoint
    if checkpoint == "last":
        return run.checkpoint
    steps = [path.name.removeprefix("step-").lstrip("0") for path in run.checkpoints]
    if str(checkpoint) not in steps:
        raise SrftError(
            f"no checkpoint of step {checkpoint}",
            where=f"{run.path}/{CHECKPOINTS}",
            fix=f"Say --checkpoint best, last{''.join(f' or {step}' for step in steps)}.",
        )
    return run.checkpoint_at(int(checkpoint))


def _create_repository(name: str, private: bool) -> None:
    """Before the weights are written: a wrong name or a missing login ends the export here."""
    import huggingface_hub

    try:
        huggingface_hub.HfApi().create_repo(name, private=private, exist_ok=True)
    except Exception as error:  # the hub raises many kinds
        raise _refused(name, error) from error


def _upload(folder: Path, name: str) -> None:
    import huggingface_hub

    try:
        huggingface_hub.HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message="Model trained by srft")
    except Exception as error:
        raise _refused(name, error) from error


def _refused(name: str, error: Exception) -> SrftError:
    fix = "Log in by `hf auth login`, and name a repository of yours: --push-to-hub USER/NAME."
    return SrftError(f"the hub did not take it: {reason(error)}", where=f"--push-to-hub {name}", fix=fix)
