"""Device and precision: one rule for training and evaluation."""

from __future__ import annotations

import pytest
import torch

from srft.policy.placement import for_inference, pick_device, pick_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("gpu", [False, True])
def test_a_gpu_is_used_where_there_is_one_and_it_is_allowed(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert pick_device("cpu") == CPU
    assert pick_device("auto") == pick_device() == (CUDA if gpu else CPU)


def test_auto_is_bf16_on_a_gpu_alone() -> None:
    assert (pick_precision("auto", CPU), pick_precision("auto", CUDA)) == ("fp32", "bf16")
    for device in (CPU, CUDA):
        assert pick_precision("bf16", device) == "bf16"
        assert pick_precision("fp32", device) == "fp32"


def test_a_model_for_inference_is_placed_and_does_not_train() -> None:
    for precision, dtype in (("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = for_inference(torch.nn.Dropout(0.5), precision, CPU)
        assert not model.training
        layer = for_inference(torch.nn.Linear(2, 2), precision, CPU)
        assert layer.weight.dtype == dtype
        assert layer.weight.device == CPU
