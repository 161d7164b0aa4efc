"""What every test shares: the embedded model, and the real files beside the checkout where there are some."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for a network
# One thread: the models are tiny, and OpenMP's threads that spin for each other crawl on a machine that is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(path: str) -> Path:
    """A real file beside the checkout; skips the test where it is absent."""
    file = SHARED / path
    if not file.exists():
        pytest.skip(f"needs the file {path} of the shared data, which is not part of the project")
    return file


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from srft.policy.load import ModelSettings, load_tokenizer

    return load_tokenizer(ModelSettings(path="srft:model"))


@pytest.fixture
def model() -> Any:
    from srft.policy.load import ModelSettings, load_model

    return load_model(ModelSettings(path="srft:model"))
