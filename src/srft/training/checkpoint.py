"""What lies in a checkpoint with the model: the state that a resumed run continues from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

FILE = "trainer.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the loop's state into a checkpoint's folder."""
    torch.save(state, folder / FILE)


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The loop's state saved in a checkpoint."""
    return torch.load(checkpoint / FILE, map_location="cpu", weights_only=True)
