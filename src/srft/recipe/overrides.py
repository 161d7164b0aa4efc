"""What a change on the command line means beyond its own key: a method's settings, the stages of a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srft.errors import SrftError
from srft.objective.registry import Method, get_method
from srft.recipe.catalog import method_name, read_recipe, stage_methods, variants_of_method
from srft.recipe.merge import EITHER, leaves, merge

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Changed:
    """A recipe with the user's changes in it, not yet checked.

    Args:
        where: it is from, for errors.
        tree: its sections, without `stages`.
        stages: the sections of each stage.
        notes: what the changes meant beyond their own keys.
    """

    where: str
    tree: dict[str, Any]
    stages: list[dict[str, Any]]
    notes: list[str]


def apply_changes(source: str | Path | Tree, changes: Tree) -> Changed:
    """A recipe with changes over it: those of one stage (`stages.0.…`) over those of all.

    Raises:
        SrftError: there is no such recipe or stage, or `method.name` is to change in a recipe of several stages.
    """
    chosen = _source_of_method(source, changes)
    notes = _method_notes(source, chosen, changes)
    where = "recipe" if isinstance(chosen, Mapping) else str(chosen)
    tree = read_recipe(chosen)
    stages, own = tree.pop("stages", None) or [], changes.get("stages")
    common = {key: value for key, value in changes.items() if key != "stages"}
    if isinstance(own, list):  # stages given as a change are over the other changes, as those of a file are
        tree, common, stages, own = merge(tree, common), {}, own, None
    _check_stages(stages, own or {}, where)
    if not stages:
        return Changed(where, merge(tree, common), [], notes)
    if "name" in _section(common):
        fix = f"Name the stage: stages.0.method.name={_section(common)['name']}."
        raise SrftError(f"it has {len(stages)} stages, each with a method", where=f"{where}: method.name", fix=fix)
    each = [(own or {}).get(str(i), {}) for i in range(len(stages))]
    below = [merge(merge(tree, stage), change) for stage, change in zip(stages, each, strict=True)]
    methods = [_method(stage) for stage in below]
    changed = [
        merge(merge(stage, _of_method(common, method, methods)), change)
        for stage, method, change in zip(below, methods, each, strict=True)
    ]
    base = merge(tree, _of_method(common, _method(tree), methods))
    return Changed(where, base, changed, [*notes, *_stage_notes(common, stages, each)])


def _renames(source: str | Path | Tree, changes: Tree) -> bool:
    """The changes name another method than that of a recipe of one stage."""
    if isinstance(source, Mapping) or "name" not in _section(changes):
        return False
    before = stage_methods(read_recipe(source))
    return len(before) == 1 and before != [_section(changes)["name"]]


def _source_of_method(source: str | Path | Tree, changes: Tree) -> str | Path | Tree:
    """The recipe whose settings are made for the method that the changes name: the variant of its name, if any."""
    if isinstance(source, Mapping) or not _renames(source, changes):
        return source
    method = str(_section(changes)["name"])
    variants = variants_of_method(source, method)
    return variants.get(method) or variants.get("") or source


def _method_notes(source: str | Path | Tree, chosen: str | Path | Tree, changes: Tree) -> list[str]:
    """Whose settings another method has."""
    if isinstance(source, Mapping) or not _renames(source, changes):
        return []
    method = str(_section(changes)["name"])
    if chosen != source:
        return [f"method.name={method}: with the settings of {chosen}"]
    (before,) = stage_methods(read_recipe(source))
    variants = variants_of_method(source, method).values()
    others = f"; made for {method}: {', '.join(variants)}" if variants else ""
    return [f"method.name={method}: with the settings of {source}, made for {before}{others}"]


def _check_stages(stages: Any, own: Any, where: str) -> None:
    """Raises SrftError where stages are no list of changes, or a change is of a stage that is not there."""
    if not isinstance(stages, list) or not all(isinstance(stage, Mapping) for stage in stages):
        fix = "Write `- method: {name: sft}` and so on."
        raise SrftError("'stages' is not a list of changes", where=where, fix=fix)
    if any(stage.get("stages") for stage in stages):
        raise SrftError("a stage has no stages of its own", where=where, fix="List them all under `stages`.")
    known = [str(i) for i in range(len(stages))]
    if (
        not isinstance(own, Mapping)
        or not set(own) <= set(known)
        or not all(isinstance(v, Mapping) for v in own.values())
    ):
        fix = f"Begin with {', '.join(f'stages.{i}.' for i in known)}" if known else "Leave `stages` out."
        raise SrftError(f"it has {len(known) or 'no'} stages, and no other can be changed", where=where, fix=fix)


def _of_method(changes: Tree, method: Method, methods: Sequence[Method]) -> dict[str, Any]:
    """The changes without options that are another method's; what none knows stays, to be refused by name."""
    kept = {
        key: value
        for key, value in _section(changes).items()
        if _knows(method, key, value) or not any(_knows(other, key, value) for other in methods)
    }
    others = {key: value for key, value in changes.items() if key != "method"}
    return others | ({"method": kept} if kept else {})


def _knows(method: Method, key: str, value: Any) -> bool:
    return value in method.presets if key == "preset" else key in method.options


def _method(tree: Tree) -> Method:
    file = _section(tree).get("file")
    return get_method(method_name(tree), file if isinstance(file, str) else None)


def _section(tree: Tree) -> Tree:
    """Of the method; empty where it is none."""
    section = tree.get("method")
    return section if isinstance(section, Mapping) else {}


def _stage_notes(common: Tree, stages: Sequence[Tree], each: Sequence[Tree]) -> list[str]:
    """A line for each change that takes the place of what stages say themselves."""
    notes = []
    for key, value in leaves(common).items():
        section, _, word = key.rpartition(".")
        rivals = [f"{section}.{other}" for other in EITHER.get(section, ()) if word in EITHER[section]] or [key]
        replaced = [
            f"{rival.rpartition('.')[2]} {json.dumps(old)} (stage {number})"
            for number, (stage, change) in enumerate(zip(stages, each, strict=True), 1)
            for rival in rivals
            if (old := leaves(stage).get(rival)) not in (None, value) and not {*rivals} & {*leaves(change)}
        ]
        if replaced:
            given = f"{key}={json.dumps(value)}"
            notes.append(f"{given} for every stage, in place of {', '.join(replaced)}; for one alone: stages.0.{given}")
    return notes
