"""What tests of several rooms share: small runs, the command line in a process, documents' blocks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "training.prompts_per_step=4", "training.tokens_per_micro_batch=1500", "rollout.n=4", "training.steps=2",
    "rollout.max_response_length=160", "evaluation.sets.test.limit=4", "evaluation.sets.ood.limit=4",
    "evaluation.sampling.n=2", "training.device=cpu", "logging.samples_every=1",
]  # fmt: skip


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    """Of a saved model."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()


def python(*arguments: str | Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """A Python process that imports this tree and its tests, whichever copy is installed."""
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH")]))
    words = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment, **kwargs)


def command(*arguments: str | Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """`srft …` in a process of its own."""
    return python("-m", "srft", *arguments, **kwargs)


def blocks(document: str, language: str = "python") -> list[str]:
    """The blocks of a document in this language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
