"""What a resumed run may change: its recipe and what it reads, compared with what it followed until then."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from srft.data.files import parse_json, read_text
from srft.errors import SrftError
from srft.recipe.catalog import parse_yaml
from srft.recipe.merge import leaves
from srft.recipe.schema import Recipe
from srft.run.inputs import digest_of_text
from srft.run.plan import Plan
from srft.training.run_dir import RunDir

Rule = Literal["free", "read", "asks", "fixed"]


@dataclass(frozen=True)
class Rules:
    """What a change of these keys, and of those below them, means.

    Args:
        rule: free: it is told; read: what is read there is compared instead; asks: it needs a word; fixed: refused.
        why: of the rule.
        keys: the longest that is a key's beginning decides.
    """

    rule: Rule
    why: str
    keys: tuple[str, ...]


RULES = (
    Rules(
        "free",
        "how long it goes on, what is kept and shown, what it runs on: the steps to come compute the same, but for "
        "rounding",
        (
            "name", "logging", "training.steps", "training.epochs", "training.checkpoint_every",
            "training.checkpoint_minutes", "training.keep_checkpoints", "training.checkpoint_async",
            "training.disk_full", "training.best", "training.device", "training.shard", "training.offload",
            "training.tokens_per_micro_batch", "model.attention", "model.gradient_checkpointing", "rollout.max_batch",
            "rollout.server", "rollout.vllm", "verify.workers", "verify.function_timeout", "verify.check_answers",
        ),
    ),
    Rules(
        "read",
        "the rows and files that are read are compared, wherever they lie",
        (
            "model.path", "model.revision", "data.path", "data.mix", "data.split", "data.options", "data.limit",
            "data.columns", "data.few_shot.path", "method.file", "verify.function", "rollout.prompting.library",
            "evaluation",
        ),
    ),
    Rules(
        "asks",
        "the steps to come are those of another run",
        (
            "model.config", "model.trust_remote_code", "data", "rollout", "verify", "method", "advantage", "hooks",
            "optim", "training.prompts_per_step", "training.precision", "training.seed",
        ),
    ),
    Rules(
        "fixed",
        "the weights are the checkpoint's",
        ("model.lora", "model.quantization", "stages"),
    ),
)  # fmt: skip
RULES_OF_INPUTS: Mapping[str, Rule] = {
    "package": "free", "recipe": "asks", "evaluation": "asks", "data": "asks", "file": "asks", "model": "fixed",
}  # fmt: skip
INPUT = re.compile(r"(stages\.(?P<stage>\d+)\.)?(?P<kind>\w+)(/.*)?")


def rule_of(key: str) -> Rule:
    """Of a recipe's key, without the stage."""
    begins = {name: rules.rule for rules in RULES for name in rules.keys if f"{key}.".startswith(f"{name}.")}
    return begins[max(begins, key=len)] if begins else "asks"


@dataclass(frozen=True)
class Change:
    """One difference.

    Args:
        key: of the recipe, or the name of what is read.
        rule: what it means.
        before, now: None where it has no value.
    """

    key: str
    rule: Rule
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_short(self.before)} → {_short(self.now)}"


def check_changes(
    run_dir: RunDir,
    recipe: Recipe,
    inputs: Mapping[str, str],
    plans: Sequence[Plan],
    state: Mapping[str, Any] | None,
    allowed: bool,
) -> list[str]:
    """Compare a recipe and what it reads with what the run in `run_dir` followed until then.

    Args:
        inputs: what the recipe reads now.
        state: of the checkpoint that the run continues from; None from its beginning.
        allowed: changes that ask for a word may be.

    Returns:
        a line for each difference.

    Raises:
        SrftError: naming every change that cannot be; or, unless `allowed`, that needs the word.
    """
    where = str(run_dir.path)
    before = _recipe_of(run_dir)
    _check_stages(before, recipe, plans, state, where)
    done = state["stage"] - 1 if state else 0
    keys, finished = _changed_keys(before, recipe, done)
    fix = f"Leave them as they were; `stages.{done}.key=value` changes the present stage alone."
    _refuse(finished, "a finished stage cannot be changed", where, fix)
    file = run_dir.path / "inputs.json"
    known = parse_json(read_text(file), str(file)) if file.is_file() else None
    stages = range(done, len(before.get("stages") or [before]))
    present = {**inputs, "recipe": digest_of_text(read_text(run_dir.path / "recipe.yaml"))}  # it may have been edited
    read = _changed_inputs(known, present, stages) if isinstance(known, Mapping) else []
    changes = [*keys, *read]
    fix = f"Start a new run from its weights: model.path={run_dir.checkpoint}." if state else "Start a new run."
    _refuse([c for c in changes if c.rule == "fixed"], "a run goes on with the model that it has", where, fix)
    if not allowed:
        fix = "Leave them as they were, or say --allow-changes (in Python allow_changes=True)."
        _refuse([c for c in changes if c.rule == "asks"], "these are not as they were in the run", where, fix)
    notes = [f"changed: {change}" for change in changes]
    notes += [f"stage {number} is new" for number in range(stages.stop + 1, len(recipe.parts) + 1)]
    if known is None:
        notes.append("inputs.json is not there: data and model are not compared with those of before")
    return notes


def _recipe_of(run_dir: RunDir) -> Mapping[str, Any]:
    """As it stands in the run directory."""
    file = run_dir.path / "recipe.yaml"
    tree = parse_yaml(read_text(file))
    if not isinstance(tree, Mapping) or not all(isinstance(stage, Mapping) for stage in tree.get("stages") or ()):
        raise SrftError("it holds no recipe", where=str(file), fix="Start a new run in another folder.")
    return tree


def _refuse(changes: Sequence[Change], what: str, where: str, fix: str) -> None:
    if changes:
        raise SrftError("\n  ".join([what, *map(str, changes)]), where=where, fix=fix)


def _check_stages(
    before: Mapping[str, Any], recipe: Recipe, plans: Sequence[Plan], state: Mapping[str, Any] | None, where: str
) -> None:
    """Raises SrftError where the steps that were made are not the first ones of the recipe."""
    old, new = len(before.get("stages") or ()), len(recipe.stages)
    fix = "Leave the recipe out (`srft train --resume --out DIR key=value`), or start a new run."
    if bool(old) != bool(new) or new < old:
        words = [f"{count} stages" if count else "no stages" for count in (old, new)]
        raise SrftError(f"the run has {words[0]}, the recipe {words[1]}", where=where, fix=fix)
    if state is None:
        return
    done, steps = state["stage"] - 1, [plan.steps for plan in plans]
    if sum(steps[:done]) != state["first_step"]:
        what = f"its finished stages took {state['first_step']} steps, and the recipe gives them {sum(steps[:done])}"
        fix = f"Leave them as they were; `stages.{done}.training.steps=…` is of the present stage alone."
        raise SrftError(what, where=where, fix=fix)
    if state["step"] > steps[done]:
        stage = f"stage {state['stage']}" if new else "the run"
        what = f"{stage} is at step {state['step']}, and the recipe ends it at {steps[done]}"
        raise SrftError(what, where=f"{where}: training.steps", fix=f"Give at least {state['step']}.")


def _changed_keys(before: Mapping[str, Any], recipe: Recipe, done: int) -> tuple[list[Change], list[Change]]:
    """Of the recipe's stages those that go on, and of the first `done`, which are finished, those that matter."""
    least = {"model": {"path": ""}, "data": {}, "training": {"steps": 0}}
    usual = leaves(Recipe.model_validate(least).model_dump(mode="json"))  # of keys that an older version did not have
    changes: list[Change] = []
    finished: list[Change] = []
    for number, (old, part) in enumerate(zip(before.get("stages") or [before], recipe.parts, strict=False)):
        prefix = f"stages.{number}." if recipe.stages else ""
        was, now = leaves(old), leaves(part.model_dump(mode="json"))
        for key in dict.fromkeys([*was, *now]):
            change = Change(prefix + key, rule_of(key), _value(was.get(key, usual.get(key))), _value(now.get(key)))
            if key.partition(".")[0] == "stages" or change.before == change.now:
                continue
            if number >= done:
                changes.append(change)
            elif change.rule in ("asks", "fixed"):
                finished.append(change)
    return changes, finished


def _changed_inputs(before: Mapping[str, str], now: Mapping[str, str], stages: range) -> list[Change]:
    """What these stages read otherwise than before. An evaluation may come or go."""
    changes = []
    for key in dict.fromkeys([*before, *now]):
        name = INPUT.fullmatch(key)
        if name is None or (name["stage"] and int(name["stage"]) not in stages):
            continue
        change = Change(key, RULES_OF_INPUTS.get(name["kind"], "free"), before.get(key), now.get(key))
        comes_or_goes = change.before is None or change.now is None
        if change.before != change.now and not (name["kind"] == "evaluation" and comes_or_goes):
            changes.append(change)
    return changes


def _value(value: Any) -> Any:
    """None for what is empty."""
    return None if value in ({}, []) else value


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
