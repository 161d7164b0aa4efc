"""From what a user wrote to a checked recipe.

Layers, later over earlier: the schema's defaults, the method's own settings and its preset, what the recipe `extends`,
the recipe itself, in a staged recipe each stage, and the overrides, those of one stage last. A layer that changes
`method.name` (or the prompting strategy) drops the options of that section in the layers beneath it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from srft.errors import SrftError
from srft.evaluation.settings import EvaluationRecipe
from srft.objective.registry import get_method
from srft.recipe.catalog import DEEPEST, parse_yaml
from srft.recipe.explain import explain
from srft.recipe.merge import leaves, merge, nest, together
from srft.recipe.overrides import apply_changes
from srft.recipe.schema import Recipe, check_options
from srft.safe_text import holds_secret

Model = TypeVar("Model", bound=BaseModel)


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """A checked recipe from a packaged name, a YAML file or a dict, with `section.key=value` overrides, in any order.

    An override reaches every stage, `stages.0.section.key=value` the first alone. `method.name=sft` takes the settings
    of that variant where the recipe's file has one. The recipe's `notes` tell of both.

    Raises:
        SrftError: naming the file and key, for whatever is unknown, malformed or of a wrong type.
    """
    changed = apply_changes(source, _changes(overrides))
    for sections in (changed.tree, *changed.stages):
        _check_secrets(sections, changed.where)
    recipe = _check(changed.tree, changed.where)
    parts = [_check(stage, f"{changed.where}: stage {i}") for i, stage in enumerate(changed.stages, 1)]
    whole = recipe.model_copy(update={"stages": tuple(parts)}).with_notes(*changed.notes)
    _check_shaping(whole, changed.where)
    _check_rewards(whole, changed.where)
    return whole


def load_evaluation(model: str, overrides: Iterable[str] = (), **values: Any) -> EvaluationRecipe:
    """A checked evaluation of a model, with `key=value` overrides over `values`.

    Raises:
        SrftError: as `load_recipe`.
    """
    tree = merge({"model": {"path": model}, **values}, _changes(overrides))
    _check_secrets(tree, "command line")
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


def _changes(overrides: Iterable[str]) -> dict[str, Any]:
    """Overrides as one tree, in which their order plays no part, but for the same key given twice."""
    changes: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")) or key.count(".") > DEEPEST:
            raise SrftError(f"'{text}' is not an override", where="command line", fix="Write section.key=value.")
        changes = together(changes, nest(key, parse_yaml(value)))
    return changes


def _check_secrets(tree: Mapping[str, Any], where: str) -> None:
    """Raises SrftError where a value holds a password or a token: recipes are kept, shown and published."""
    for key, value in leaves(tree).items():
        if holds_secret(str(value)):
            fix = "Leave it out: libraries read theirs from the environment (HF_TOKEN, WANDB_API_KEY) or a login."
            raise SrftError("it holds a password or a token", where=f"{where}: {key}", fix=fix)


def _check(tree: dict[str, Any], where: str) -> Recipe:
    """The recipe of a tree without stages, with the method's own settings under it."""
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


def _check_rewards(recipe: Recipe, where: str) -> None:
    """Raises SrftError where a stage scores otherwise than the others: one verifier scores them all."""
    own = {"grader": None, "check_answers": 0}  # each stage's own data is graded and checked by these
    for stage, part in enumerate(recipe.stages, 1):
        if part.verify.model_copy(update=own) != recipe.verify.model_copy(update=own):
            raise SrftError(
                "a stage has no rewards of its own, but for verify.grader and verify.check_answers",
                where=f"{where}: stage {stage}: verify",
                fix="Say it once above the stages, or train one run after another.",
            )


def _apply_method(tree: dict[str, Any]) -> dict[str, Any]:
    """The method's settings and its preset under the tree."""
    section = tree.get("method") or {}
    kinds: Mapping[str, Any] = {"name": str, "preset": str | None, "file": str | None}
    if not isinstance(section, Mapping) or not all(isinstance(section.get(k, ""), kind) for k, kind in kinds.items()):
        return tree  # which the schema refuses
    method = get_method(section.get("name", "srft"), section.get("file"))
    preset = method.preset_values(section["preset"]) if section.get("preset") else {}
    values: dict[str, Any] = {}
    for key, value in {**method.settings, **preset}.items():
        values = merge(values, nest(key, value))
    return merge({**values, "method": {"name": method.name, **values.get("method", {})}}, tree)
