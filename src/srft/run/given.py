"""What `train` is given in memory, data, rewards and a model, as a recipe names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from accelerate import Accelerator

from srft.data.load import json_rows
from srft.errors import SrftError
from srft.processes import first
from srft.recipe.schema import Recipe
from srft.training.run_dir import RunDir
from srft.verify.function import name_of

Reward = str | Callable[..., Any] | tuple[str | Callable[..., Any], float]


def with_rows(
    recipe: Recipe, rows: Iterable[Mapping[str, Any]], run_dir: RunDir, accelerator: Accelerator, resume: bool
) -> Recipe:
    """The recipe on rows in memory, which the run directory keeps; a stage with data of its own goes on with that.

    Raises:
        SrftError: these are not rows, or the run has its own already.
    """
    if resume:
        fix = "Leave data out: the run reads what it kept in data.jsonl."
        raise SrftError("a run that goes on has its data", where=f"{run_dir.path}", fix=fix)
    kept = json_rows(rows)
    first(accelerator, lambda: run_dir.keep_data(kept))
    change = {"path": str(run_dir.data), "mix": ()}
    replaced = (recipe.data.path, recipe.data.mix)

    def changed(part: Recipe) -> Recipe:
        if (part.data.path, part.data.mix) != replaced:
            return part
        return part.model_copy(update={"data": part.data.model_copy(update=change)})

    return _with_stages(recipe, changed)


def with_rewards(recipe: Recipe, rewards: Sequence[Reward]) -> tuple[Recipe, dict[str, Callable[..., Any]]]:
    """The recipe with the rewards by name and weight, in every stage, and the functions among them by name."""
    if not rewards:
        return recipe, {}
    pairs = [reward if isinstance(reward, tuple) else (reward, 1.0) for reward in rewards]
    names = [reward if isinstance(reward, str) else name_of(reward) for reward, _ in pairs]
    weights = {name: weight for name, (_, weight) in zip(names, pairs, strict=True)}
    if len(weights) < len(names):
        raise SrftError("two have one name", where=f"rewards: {', '.join(names)}", fix="Rename one of them.")
    verify = recipe.verify.model_copy(update={"function": None, "rewards": weights})
    functions = {name: reward for name, (reward, _) in zip(names, pairs, strict=True) if callable(reward)}
    return _with_stages(recipe, lambda part: part.model_copy(update={"verify": verify})), functions


def with_model(
    recipe: Recipe, model: Any, tokenizer: Any, run_dir: RunDir, accelerator: Accelerator, resume: bool
) -> Recipe:
    """The recipe on `model` in place of the one that it names. The model is written to the run directory first, from
    where the run and all that follows it (a resumed run, reports, exports) read it; it is not changed itself.

    Args:
        model: a transformers causal LM.
        tokenizer: its own.

    Raises:
        SrftError: it has no tokenizer or is a peft model; the run directory holds a run already.
    """
    if resume:
        fix = "Leave model out: the run reads what it kept in model/."
        raise SrftError("a run that goes on has its model", where=f"{run_dir.path}", fix=fix)
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

    return _with_stages(recipe, lambda part: part.model_copy(update={"model": part.model.model_copy(update=path)}))


def _with_stages(recipe: Recipe, changed: Callable[[Recipe], Recipe]) -> Recipe:
    """The recipe changed, and each of its stages."""
    return changed(recipe).model_copy(update={"stages": tuple(map(changed, recipe.stages))})
