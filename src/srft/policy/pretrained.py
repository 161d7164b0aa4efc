"""transformers' `from_pretrained` on what strangers made: its many errors as ours, and no pickles."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from srft.data.load import resolve_path
from srft.errors import SrftError, reason
from srft.policy.manifest import check_manifest

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def from_pretrained(factory: Any, path: str, **options: Any) -> Any:
    """What an Auto class of transformers makes of a folder, a .gguf file or a hub id.

    Raises:
        SrftError: it is not there, damaged, of an unknown kind, or comes with code of its own.
    """
    resolved = resolve_path(path)
    if resolved.endswith(".gguf"):
        file = Path(resolved)
        if not os.path.isfile(file):
            raise SrftError("no such file", where=f"model.path: {path}", fix="Check the path.")
        if importlib.util.find_spec("gguf") is None:
            raise SrftError("reading GGUF needs the package gguf", where=path, fix="pip install 'srft[smollm2]'")
        resolved, options = str(file.parent), {**options, "gguf_file": file.name}
    check_manifest(Path(resolved))
    try:
        return factory.from_pretrained(resolved, **{k: v for k, v in options.items() if v is not None})
    except Exception as error:  # transformers, safetensors, tokenizers and the hub raise many kinds
        what = f"{factory.__name__} could not load it: {reason(error)}"
        fix = "Give a hub id that this machine can reach, or a folder in Hugging Face format."
        if "trust_remote_code" in str(error):
            what = "it comes with code of its own, which is not run"
            fix = "Read that code; if you trust it, set model.trust_remote_code=true."
        elif "ignore_mismatched_sizes" in str(error):
            what, fix = "its weights have other shapes than its config.json says", "Fetch or save both anew."
        elif os.path.exists(resolved):
            fix = "Fetch or save it anew, in Hugging Face format."
        raise SrftError(what, where=f"model.path: {path}", fix=fix) from error


def check_weights(path: str) -> None:
    """Return nothing where a folder has weights in safetensors, or none.

    Raises:
        SrftError: they are pickled: to read them could run a stranger's code.
    """
    files = sorted(file.name for file in Path(path).glob("*") if file.suffix in (*PICKLED, ".safetensors"))
    if files and not any(name.endswith(".safetensors") for name in files):
        raise SrftError(
            f"its weights are pickled ({files[0]}), and could run code when they are read",
            where=f"model.path: {path}",
            fix="Where you trust them, convert them to safetensors: load them by transformers elsewhere, and "
            "save_pretrained; or take a revision with model.safetensors.",
        )
