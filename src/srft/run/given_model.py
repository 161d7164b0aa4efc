"""A model that is in memory already, as the model of a run."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator

from srft.errors import SrftError
from srft.processes import first
from srft.recipe.schema import Recipe
from srft.training.run_dir import RunDir


def with_model(recipe: Recipe, model: Any, tokenizer: Any, run_dir: RunDir, accelerator: Accelerator) -> Recipe:
    """The recipe on `model` in place of the one that it names. The model is written to the run directory first, from
    where the run and all that follows it (a resumed run, reports, exports) read it; it is not changed itself.

    Args:
        model: a transformers causal LM.
        tokenizer: its own.

    Raises:
        SrftError: it has no tokenizer or is a peft model; the run directory holds a run already.
    """
    if tokenizer is None:
        raise SrftError("the model has no tokenizer", where="train(model=…)", fix="Give tokenizer=… with it.")
    if hasattr(model, "peft_config"):
        fix = "Give model.merge_and_unload(), and model.lora in the recipe for new adapters."
        raise SrftError("it has LoRA adapters of its own", where="train(model=…)", fix=fix)
    folder = run_dir.path / "model"

    def save() -> None:
        run_dir.check_new()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    first(accelerator, save)
    path = {"path": str(folder.absolute()), "revision": None}

    def changed(part: Recipe) -> Recipe:
        return part.model_copy(update={"model": part.model.model_copy(update=path)})

    return changed(recipe).model_copy(update={"stages": tuple(map(changed, recipe.stages))})
