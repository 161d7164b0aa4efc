"""Pydantic's findings as one error in words: what is wrong, where, and the nearest known key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from srft.errors import SrftError, did_you_mean
from srft.recipe.aliases import key_of, meaning
from srft.recipe.merge import leaves

LONGEST_SHOWN = 200  # characters of a value


def explain(
    error: ValidationError, where: str, known: Iterable[str] = (), schema: type[BaseModel] | None = None
) -> SrftError:
    """The first few findings.

    Args:
        known: the keys there are, where they are not those of `schema`.
        schema: of the whole, for suggestions of keys in its sections.
    """
    lines, fixes = [], []
    for finding in error.errors()[:5]:
        path = _key_path(schema, [str(part) for part in finding["loc"]])
        key = ".".join(path) or "recipe"
        if finding["type"] == "extra_forbidden":
            inner = next(iter(leaves(finding["input"])), "") if isinstance(finding["input"], Mapping) else ""
            lines.append(f"unknown key '{key}'")
            fixes.append(_suggest(path, f"{key}.{inner}".rstrip("."), list(known), schema))
        elif finding["type"] == "missing":
            lines.append(f"'{key}' is missing")
            fixes.append(f"Give {key}=….")
        elif finding["type"] == "union_tag_invalid":  # a name that chooses a section
            tags = [tag.strip(" '") for tag in finding["ctx"]["expected_tags"].split(",")]
            chooser = finding["ctx"]["discriminator"].strip("'")
            lines.append(f"'{key}.{chooser}': unknown '{finding['ctx']['tag']}'")
            fixes.append(did_you_mean(finding["ctx"]["tag"], tags))
        elif finding["type"] == "value_error":  # said by a validator of ours
            lines.append(f"'{key}': {finding['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(f"'{key}': {finding['msg']}, got {_short(finding['input'])}")
    return SrftError("; ".join(lines), where=where, fix=" ".join(fixes) or "Correct the value.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _suggest(path: list[str], name: str, known: list[str], schema: type[BaseModel] | None) -> str:
    """What was meant by the unknown key at `path`; `name` leads on to the first value in it."""
    word, key = path[-1], key_of(name) or ""
    if schema is None:  # options of a method
        option = key.removeprefix("method.")
        return f"Did you mean '{option}'?" if option in known and option != word else did_you_mean(word, known)
    keys = _keys(schema, path[:-1])
    if word in keys:  # of another of the sections that stand there by name
        return f"'{word}' goes with another choice of {'.'.join(path[:-1])}: name that one too."
    if key.startswith("--"):
        return f"It is the option {key}."
    if key and _has(schema, key):
        about = meaning(key)
        return f"Did you mean '{key}'{f' ({about})' * bool(about)}?"
    for section, field in schema.model_fields.items():
        if (last := key.rpartition(".")[2] or word) in getattr(field.annotation, "model_fields", {}):
            return f"Did you mean '{section}.{last}'?"
    return did_you_mean(word, keys)


def _has(schema: type[BaseModel], key: str) -> bool:
    """The key is one of the schema's, or may be a method's."""
    *path, word = key.split(".")
    return word in _keys(schema, path) or (path == ["method"] and "method" in schema.model_fields)


def _keys(schema: type[BaseModel], path: list[str]) -> list[str]:
    """The keys of the section that `path` leads to."""
    fields: dict[str, Any] = dict(schema.model_fields)
    for part in path:
        models = models_in(fields[part].annotation) if part in fields else []
        if models:
            fields = {name: field for model in models for name, field in model.model_fields.items()}
    return list(fields)


def _key_path(schema: type[BaseModel] | None, location: list[str]) -> list[str]:
    """The location as the user writes it: without the tag that pydantic adds where a name chooses the section."""
    fields: dict[str, Any] = dict(schema.model_fields) if schema else {}
    path, tagged = [], False
    for part in location:
        if tagged:
            tagged = False
            continue
        path.append(part)
        field = fields.get(part)
        tagged = getattr(field, "discriminator", None) is not None
        models = models_in(field.annotation) if field else []
        fields = {name: inner for model in models for name, inner in model.model_fields.items()} or fields
    return path


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections in a type, e.g. in `Lora | None` or `dict[str, EvaluationSet]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]
