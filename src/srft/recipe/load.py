"""From what a user wrote to a checked recipe.

Layers, later over earlier: the schema's defaults, the method's own settings and its preset, what the recipe `extends`,
the recipe itself, the overrides; in a staged recipe each stage comes on top. A layer that changes `method.name` (or the
prompting strategy) drops the options of that section in the layers beneath it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from srft.errors import SrftError
from srft.evaluation.settings import EvaluationRecipe
from srft.objective.registry import get_method
from srft.recipe.catalog import parse_yaml, read_recipe
from srft.recipe.explain import explain
from srft.recipe.merge import merge, nest
from srft.recipe.schema import Recipe, check_options

Model = TypeVar("Model", bound=BaseModel)


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """A checked recipe from a packaged name, a YAML file or a dict, with `section.key=value` overrides.

    Raises:
        SrftError: naming the file and key, for whatever is unknown, malformed or of a wrong type.
    """
    where = "recipe" if isinstance(source, Mapping) else str(source)
    tree = _with_overrides(read_recipe(source), overrides)
    stages = tree.pop("stages", None) or []
    if not isinstance(stages, list) or not all(isinstance(stage, Mapping) for stage in stages):
        raise SrftError(
            "'stages' is not a list of changes", where=where, fix="Write `- method: {name: sft}` and so on."
        )
    recipe = _check(tree, where)
    parts = [_check(merge(tree, stage), f"{where}: stage {i}") for i, stage in enumerate(stages, 1)]
    whole = recipe.model_copy(update={"stages": tuple(parts)})
    _check_shaping(whole, where)
    return whole


def load_evaluation(model: str, overrides: Iterable[str] = (), **values: Any) -> EvaluationRecipe:
    """A checked evaluation of a model, with `key=value` overrides over `values`.

    Raises:
        SrftError: as `load_recipe`.
    """
    tree = _with_overrides({"model": {"path": model}, **values}, overrides)
    return validated(EvaluationRecipe, tree, "command line")


def validated(schema: type[Model], tree: Mapping[str, Any], where: str) -> Model:
    """A section or recipe of plain values.

    Raises:
        SrftError: naming the key, for whatever is unknown or malformed.
    """
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise explain(error, where, schema=schema) from None


def _with_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    for text in overrides:
        tree = merge(tree, _override(text))
    return tree


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise SrftError(f"'{text}' is not an override", where="command line", fix="Write section.key=value.")
    return nest(key, parse_yaml(value))


def _check(tree: dict[str, Any], where: str) -> Recipe:
    """The recipe of a tree without stages, with the method's own settings under it."""
    if tree.pop("stages", None):
        raise SrftError("a stage has no stages of its own", where=where, fix="List them all under `stages`.")
    recipe = validated(Recipe, _apply_method(tree), where)
    check_options(recipe.loss, recipe.method.options)
    if recipe.rollouts_per_prompt < 1:
        raise SrftError(
            f"demo_slots: replace leaves no rollout of n = {recipe.rollout.n}",
            where=f"{where}: rollout",
            fix="Raise rollout.n or lower rollout.demonstrations.",
        )
    return recipe


def _check_shaping(recipe: Recipe, where: str) -> None:
    """Raises SrftError where the advantage is shaped and no stage's loss has one of rollouts."""
    shaped = [part for part in recipe.parts if part.advantage.ppl or part.advantage.position]
    if shaped and not any(part.loss.has_advantage(part.method_options) for part in shaped):
        raise SrftError(
            f"the loss of '{recipe.title}' has no advantage of rollouts to shape",
            where=f"{where}: advantage",
            fix="Leave advantage.ppl and advantage.position out, or use a method with one (grpo; srft with "
            "rollout_signal: advantage).",
        )


def _apply_method(tree: dict[str, Any]) -> dict[str, Any]:
    """The method's settings and its preset under the tree."""
    section = tree.get("method") or {}
    if not isinstance(section, Mapping):
        return tree
    method = get_method(section.get("name", "srft"), section.get("file"))
    preset = method.preset_values(section["preset"]) if section.get("preset") else {}
    values: dict[str, Any] = {}
    for key, value in {**method.settings, **preset}.items():
        values = merge(values, nest(key, value))
    return merge({**values, "method": {"name": method.name, **values.get("method", {})}}, tree)
