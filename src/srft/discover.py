"""Extensions of a folder: every class of its files that a user may name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

T = TypeVar("T")


def discover(package: str, base: type[T]) -> list[type[T]]:
    """The subclasses of `base` that give themselves a `name`, sorted by it: those in the files of `package`, and those
    of the user's own that are defined already."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    classes: list[type[T]] = []
    waiting = [base]
    while waiting:
        subclasses = waiting.pop().__subclasses__()
        waiting += subclasses
        classes += [cls for cls in subclasses if "name" in vars(cls)]
    return sorted(classes, key=lambda cls: vars(cls)["name"])
