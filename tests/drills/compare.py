"""Whether two run directories hold the same: all files, but for times."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from srft.policy.manifest import MANIFEST

TIMES = ("seconds", "step_time", "tokens_per_second", "started")  # columns that begin so are of the clock


def differences(one: Path, other: Path) -> list[str]:
    """What differs, a line each: files of one alone, rows by their first column that differs, other files by bytes."""
    mine, theirs = files(one), files(other)
    lines = [f"{name}: lost" for name in sorted(mine - theirs)] + [f"{name}: new" for name in sorted(theirs - mine)]
    return lines + [
        line
        for name in sorted(mine & theirs)
        for line in _differences(name, contents(one / name), contents(other / name))
    ]


def files(folder: Path) -> set[str]:
    """The names of all files of a run, but for its lock."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file.name != "run.lock"}


def contents(file: Path) -> Any:
    """A file without its times: rows of JSON, a JSON value, hashes of tensors by name, or bytes; of a manifest
    its files."""
    if file.suffix == ".jsonl":
        return [untimed(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    if file.name == MANIFEST:  # its hashes are of bytes, and the order of tensors is among these
        return sorted(json.loads(file.read_text(encoding="utf-8"))["files"])
    if file.suffix == ".json":
        return untimed(json.loads(file.read_text(encoding="utf-8")))
    if file.suffix == ".safetensors":  # the order in which they lie there is no part of it
        parts = file.parent.glob("*.safetensors")  # nor which of several processes' files a tensor lies in
        tensors = {name: tensor for part in parts for name, tensor in load_file(part).items()}
        return {name: f"{x.dtype} {list(x.shape)} {_hash(x)}" for name, x in sorted(tensors.items())}
    return file.read_bytes()


def _hash(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def untimed(value: Any) -> Any:
    """A JSON value without columns of the clock."""
    if isinstance(value, dict):
        return {key: untimed(part) for key, part in value.items() if not key.startswith(TIMES)}
    return [untimed(part) for part in value] if isinstance(value, list) else value


def _differences(name: str, mine: Any, theirs: Any) -> list[str]:
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        rows = enumerate(zip(mine, theirs, strict=True), 1)
        return [line for row, (a, b) in rows for line in _differences(f"{name}: row {row}", a, b)][:1]
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = [key for key in {**mine, **theirs} if not _same(mine.get(key), theirs.get(key))]
        return [f"{name}: {key}: {mine.get(key)!r}, {theirs.get(key)!r}"[:300] for key in keys[:1]]
    return [] if _same(mine, theirs) else [f"{name}: other {'rows' if isinstance(mine, list) else 'bytes'}"]


def _same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)  # a NaN is itself
