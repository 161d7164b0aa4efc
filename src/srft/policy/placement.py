"""Where a model computes and in which precision: one rule for training and evaluation."""

from __future__ import annotations

from typing import Any, Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
DeviceName = Literal["auto", "cpu"]


def pick_device(device: DeviceName = "auto") -> torch.device:
    """CUDA where there is a GPU and `device` allows it, else the CPU."""
    return torch.device("cuda" if device == "auto" and torch.cuda.is_available() else "cpu")


def pick_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """What `auto` means: bf16 on CUDA, else fp32."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return precision


def for_inference(model: Any, precision: Precision = "auto", device: torch.device | None = None) -> Any:
    """The model on its device in the precision it samples and scores in; it is not trained any more."""
    device = device or pick_device()
    dtype = torch.float32 if pick_precision(precision, device) == "fp32" else torch.bfloat16
    return model.to(device, dtype).eval()
