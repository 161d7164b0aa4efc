"""What the drills share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import sharded_runs


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random model, its tokenizer and problems."""
    folder = tmp_path_factory.mktemp("model")
    sharded_runs.make_model(folder)
    return folder
