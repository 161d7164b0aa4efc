"""How far a step is from what the machine can do: python benchmarks/limit.py quickstart [section.key=value …].

Measured here: the rate of a matrix product in both precisions, and the memory's bandwidth. From these a step's floor:

- training: 6 FLOPs per weight and token (2 forward, 4 backward; the head on response tokens alone) and 6 · layers ·
  width · T² of causal attention per sequence of T tokens, over the rate of the product; AdamW's 7 passes over the
  weights (4 read, 3 written) over the bandwidth. A group's prompt is counted once.
- decoding: per token of the longest response the larger of reading every weight once and of 2 FLOPs per weight and row
  still running; and reading the keys and values of those rows.

Nothing reaches it: norms, softmax, the optimizer's arithmetic, Python and small matrices are free in it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from against_trl import Contender
from contenders import Step, Work, ours

from srft.policy.load import ModelSettings, load_model
from srft.policy.placement import pick_device, pick_precision


@dataclass(frozen=True)
class Machine:
    """Args:
    flops: FLOP/s of a matrix product, by precision.
    bandwidth: bytes/s, read and written.
    """

    flops: dict[str, float]
    bandwidth: float


@dataclass(frozen=True)
class Shape:
    """Args:
    body: weights that every token is multiplied with, embeddings and head apart.
    head: weights that a token whose successor is wanted is multiplied with.
    stored: parameters in memory.
    layers: of attention, of `width` in queries and `cached` values a token in keys and values together.
    """

    body: int
    head: int
    stored: int
    layers: int
    width: int
    cached: int


def best(run: Callable[[], Any], seconds: float = 1.0) -> float:
    """Seconds of the fastest call, in about so many of calling it."""
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def measure(device: torch.device, size: int = 1536) -> Machine:
    """What this machine does with as many threads as torch has."""
    flops = {}
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        flops[name] = 2 * size**3 / best(lambda a=a, b=b: a @ b)  # type: ignore[misc]
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return Machine(flops, 2 * 4 * len(source) / best(lambda: target.copy_(source)))


def shape_of(settings: ModelSettings) -> Shape:
    """The sizes of a model."""
    model = load_model(settings)
    config, stored = model.config.get_text_config(), sum(p.numel() for p in model.parameters())
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    body = stored - head.numel() - (0 if head is embedding else embedding.numel())
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width, cached = size * config.num_attention_heads, 2 * size * kv
    return Shape(body, head.numel(), stored, config.num_hidden_layers, width, cached)


def training_floor(
    shape: Shape, machine: Machine, precision: str, prompts: Sequence[int], lengths: Sequence[int]
) -> float:
    """Seconds of an update on responses of so many tokens, to prompts of so many, their groups of equal size."""
    n = len(lengths) // len(prompts)
    products = 6 * (shape.body * (sum(prompts) + sum(lengths)) + shape.head * sum(lengths))
    attention = sum(6 * shape.layers * shape.width * (prompts[i // n] + x) ** 2 for i, x in enumerate(lengths))
    return (products + attention) / machine.flops[precision] + 28 * shape.stored / machine.bandwidth


def decoding_floor(
    shape: Shape, machine: Machine, precision: str, prompts: Sequence[int], lengths: Sequence[int]
) -> float:
    """Seconds of drawing these responses, all prompts at once."""
    n, size, weights = len(lengths) // len(prompts), 2 if precision == "bf16" else 4, shape.body + shape.head
    seconds = 2 * shape.body * sum(prompts) / machine.flops[precision]
    for place in range(max(lengths)):
        running = [prompts[i // n] + place for i, x in enumerate(lengths) if x > place]
        product = 2 * weights * len(running) / machine.flops[precision]
        seconds += max(product, size * weights / machine.bandwidth)
        seconds += size * shape.layers * shape.cached * sum(running) / machine.bandwidth
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("overrides", nargs="*", help="section.key=value, of the recipe")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    a = parser.parse_intermixed_args()
    torch.set_num_threads(a.threads)
    device, work = pick_device(), Work(a.recipe, a.overrides, "grpo", a.threads)
    recipe = work.load()
    precision = pick_precision(recipe.training.precision, device)
    machine, shape = measure(device), shape_of(recipe.model)
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in machine.flops.items())
    print(f"{a.threads} threads: {rates}, {machine.bandwidth / 1e9:.1f} GB/s")
    print(f"{work.recipe}: {shape.stored / 1e6:.1f} M parameters, {precision}, medians of {a.rounds} rounds\n")

    contender = Contender("srft", ours, work, [])
    rows: dict[str, list[tuple[float, float]]] = {"sampling": [], "training": []}
    try:
        for number in range(a.rounds + 1):
            prompts = contender("prompts", recipe.training.prompts_per_step)
            drawn: Step = contender("sample", prompts, number)
            trained: Step = contender("train", prompts, drawn.rollouts, number)
            sizes = [len(p.token_ids) for p in prompts], [len(ids) for ids in drawn.rollouts]
            if number:
                rows["sampling"].append((drawn.sampling, decoding_floor(shape, machine, precision, *sizes)))
                rows["training"].append((trained.training, training_floor(shape, machine, precision, *sizes)))
    finally:
        contender.close()
    print("| part | floor (s) | measured (s) | measured / floor |\n|---|---|---|---|")
    for part, pairs in rows.items():
        taken, floor = (median(column) for column in zip(*pairs, strict=True))
        print(f"| {part} | {floor:.3f} | {taken:.3f} | {taken / floor:.1f} |")


if __name__ == "__main__":
    main()
