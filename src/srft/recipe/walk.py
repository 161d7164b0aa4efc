"""The schema read off as a list of keys: what `recipe/fields.txt` is made of."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from srft.recipe.explain import models_in
from srft.recipe.fields import RecipeField
from srft.recipe.schema import Recipe

BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def walk_schema(schema: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[RecipeField]:
    """Every key of a section and of the sections in it, each section after a line of its own."""
    for name, field in schema.model_fields.items():
        yield from _walk_field(f"{prefix}{name}", field)


def _walk_field(key: str, field: FieldInfo) -> Iterator[RecipeField]:
    models = [model for model in models_in(field.annotation) if model is not Recipe]  # a stage is a recipe again
    if field.discriminator is not None:
        yield RecipeField(key, "section", "", _one_line(field.description))
        yield from _walk_choices(key, str(field.discriminator), models)
        return
    kind = _type(field)
    about = field.description or (inspect.getdoc(models[0]) if models else "")
    yield RecipeField(key, kind, "" if kind == "section" else _default(field), _one_line(about))
    origin = get_origin(field.annotation)
    inner = {dict: f"{key}.NAME.", list: f"{key}.0.", tuple: f"{key}.0."}.get(origin, f"{key}.")  # type: ignore[arg-type]
    for model in models:
        yield from walk_schema(model, inner)


def _walk_choices(key: str, chooser: str, models: list[type[BaseModel]]) -> Iterator[RecipeField]:
    """The keys of sections of which a name chooses one."""
    names = [model.model_fields[chooser].default for model in models]
    meanings = " ".join(f"{n}: {_one_line(inspect.getdoc(m))}" for n, m in zip(names, models, strict=True))
    yield RecipeField(f"{key}.{chooser}", " | ".join(names), names[0], meanings)
    for name, model in zip(names, models, strict=True):
        for member in walk_schema(model, f"{key}."):
            if member.key != f"{key}.{chooser}":
                words = f"{name}: {member.description}"
                yield RecipeField(member.key, member.type, member.default, words)


def _type(field: FieldInfo) -> str:
    """The value's type with its bounds, e.g. "int > 0 | null"."""
    limits = [
        f"{sign} {limit:g}"
        for m in field.metadata
        for word, sign in BOUNDS.items()
        if (limit := getattr(m, word, None)) is not None
    ]
    first, *others = _words(field.annotation).split(" | ")
    return " | ".join([" ".join([first, ", ".join(limits)]).strip(), *others])


def _words(annotation: Any) -> str:
    """A type as a reader of YAML calls it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " | ".join(map(_words, arguments))
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"list of {_words(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_words, arguments))}]"
    if origin is dict:
        return "section" if models_in(annotation) else "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {NoneType: "null", Any: "any"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return value if isinstance(value, str) else json.dumps(value)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
