"""What a forward and a backward pass allocate, traced on tensors without data, beside the estimate of `srft plan`.

    python benchmarks/memory.py

Models of any size can be traced, as nothing is allocated or computed; the kernels are those of a CPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoModelForCausalLM

from srft.policy.load import ModelSettings
from srft.recipe.load import load_recipe
from srft.run.estimate import estimate_on
from srft.run.sizing.hardware import Device
from srft.run.sizing.memory import activations, whole_weights
from srft.run.sizing.setup import Lengths, Setup
from srft.run.sizing.shape import known_config

CPU = Device("cpu", 64 * 2**30, 1e11, 2e10, 1e10, 1e10, is_gpu=False)


def traced(config: Any, rows: int, length: int, bf16: bool, checkpointing: bool) -> float:
    """Bytes beside weights and gradients at the peak of a forward and a backward pass of the body."""
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        for parameter in model.parameters():  # as after another micro-batch: the peak is that of the activations
            parameter.grad = torch.zeros_like(parameter)
        tracker = MemTracker()
        tracker.track_external(model)
        ids = torch.zeros(rows, length, dtype=torch.long)
        with tracker:
            with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
                mask = torch.ones_like(ids)
                hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            hidden.float().sum().backward()
        peak = tracker.get_tracker_snapshot("peak")
    kinds = {str(kind): size for sizes in peak.values() for kind, size in sizes.items()}
    return sum(size for kind, size in kinds.items() if kind.endswith(("ACT", "TEMP")))


def setup_of(model: str, rows: int, length: int, bf16: bool, checkpointing: bool) -> Setup:
    """Of a run whose largest micro-batch is so many rows of this length."""
    changes = [
        f"model.path={model}", f"model.gradient_checkpointing={str(checkpointing).lower()}",
        f"training.precision={'bf16' if bf16 else 'fp32'}", f"training.tokens_per_micro_batch={rows * length}",
        f"rollout.max_response_length={length // 2}", f"data.max_prompt_length={length // 2}",
    ]  # fmt: skip
    recipe = load_recipe("quickstart", changes)
    return estimate_on(recipe, Lengths.assumed(recipe), CPU).setup


def estimated(setup: Setup) -> float:
    """Bytes of the same: activations, and the bf16 copies of the layers' weights that autocast keeps."""
    ends = setup.width * setup.shape.outside_layers  # the head's is not traced
    return activations(setup) + max(0.0, whole_weights(setup) - ends)


CASES = [
    ("Qwen/Qwen2.5-Math-7B", 2, 8192, True, True),
    ("Qwen/Qwen2.5-Math-7B", 4, 2048, True, False),
    ("Qwen/Qwen3-4B-Base", 4, 4096, True, True),
    ("Qwen/Qwen2.5-1.5B", 8, 1024, False, False),
]


def main() -> None:
    """Print the table."""
    print("| model | rows × tokens | precision | checkpointing | traced (GiB) | estimated (GiB) | ratio |")
    print("|---|---|---|---|---|---|---|")
    for model, rows, length, bf16, checkpointing in CASES:
        case = rows, length, bf16, checkpointing
        measured, ours = traced(known_config(ModelSettings(path=model)), *case), estimated(setup_of(model, *case))
        words = f"{'bf16' if bf16 else 'fp32'} | {'yes' if checkpointing else 'no'}"
        print(
            f"| {model} | {rows} × {length} | {words} | {measured / 2**30:.1f} | {ours / 2**30:.1f} "
            f"| {ours / measured:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
