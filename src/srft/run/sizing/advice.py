"""What to change where a run does not fit: each change by itself, or several together, tried on the estimate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from srft.run.sizing.memory import memory, peak, rows_at_once
from srft.run.sizing.setup import Setup

ROOM = 0.95  # of a GPU that an estimate may fill; the rest goes to fragments between tensors
MOST_GPUS = 512


@dataclass(frozen=True)
class Change:
    """One change: as a user writes it, and what it sets."""

    text: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Advice:
    """Changes as a user writes them.

    Args:
        alone: any one of which is enough.
        together: all of which are enough, where no single one is; empty where nothing helps.
    """

    alone: list[str]
    together: list[str]

    def __str__(self) -> str:
        if self.alone:
            return "Any one of: " + ", ".join(self.alone) + "."
        if self.together:
            return "Together: " + ", ".join(self.together) + "."
        return "Take a smaller model, shorter responses, or GPUs with more memory."


def room(setup: Setup) -> float:
    """Bytes that a process may need."""
    return setup.device.memory * (ROOM if setup.device.is_gpu else 1.0)


def fits(setup: Setup) -> bool:
    """Whether every phase fits, and the sampler's cache holds at least one of the longest responses."""
    return peak(memory(setup))[1] <= room(setup) and holds_a_response(setup)


def holds_a_response(setup: Setup) -> bool:
    """Whether vLLM's share of the memory is enough for its weights and one of the longest responses."""
    if not setup.samples or setup.engine != "vllm":
        return True
    return rows_at_once(setup, setup.lengths.prompt, setup.lengths.response) >= 1


def advise(setup: Setup) -> Advice:
    """What makes a run fit that does not."""
    alone = [change for change in _changes(setup) if fits(_with(setup, [change]))]
    if alone:
        return Advice([change.text for change in alone], [])
    together: list[Change] = []
    while further := next(_changes(_with(setup, together)), None):
        together.append(further)
        if fits(_with(setup, together)):
            for change in list(together):  # leave out what another made needless
                fewer = [other for other in together if other is not change]
                together = fewer if fits(_with(setup, fewer)) else together
            return Advice([], [change.text for change in together])
    return Advice([], [])


def _with(setup: Setup, changes: Iterable[Change]) -> Setup:
    for change in changes:
        setup = replace(setup, **change.values)
    return setup


def _changes(setup: Setup) -> Iterator[Change]:
    """Changes from the cheapest on, those that are made already left out."""
    vllm = setup.samples and setup.engine == "vllm" and setup.device.is_gpu
    if setup.ranks > 1 and not setup.shard and setup.shardable:
        yield Change("training.shard=true", {"shard": True})
    if vllm and not setup.sleep:
        yield Change("rollout.vllm.sleep=true", {"sleep": True})
    if vllm and (share := _needed_share(setup)) > setup.gpu_memory:
        yield Change(f"rollout.vllm.gpu_memory={share}", {"gpu_memory": share})
    if not setup.gradient_checkpointing:
        yield Change("model.gradient_checkpointing=true", {"gradient_checkpointing": True})
    if (tokens := _largest_micro_batch(setup)) < setup.tokens_per_micro_batch:
        yield Change(f"training.tokens_per_micro_batch={tokens}", {"tokens_per_micro_batch": tokens})
    if (rows := _most_rows(setup)) < (setup.max_batch or 256) and setup.samples and setup.engine == "transformers":
        yield Change(f"rollout.max_batch={rows}", {"max_batch": rows})
    divisible = setup.device.is_gpu and setup.shardable
    if divisible and not setup.offload:
        yield Change("training.offload=true", {"offload": True, "shard": True})
    if divisible and (gpus := _fewest_gpus(setup)):
        yield Change(f"--gpus {gpus}", {"ranks": gpus, "shard": True})
    if setup.shape.trainable == setup.shape.parameters:
        adapters = replace(setup.shape, trainable=16 * setup.shape.adapters)
        yield Change("model.lora={rank: 16}", {"shape": adapters})


def _needed_share(setup: Setup) -> float:
    """vLLM's share of a GPU, in tenths, that holds its weights and a response."""
    shares = [tenths / 10 for tenths in range(1, 10) if holds_a_response(replace(setup, gpu_memory=tenths / 10))]
    return min(shares, default=0.0)


def _most_rows(setup: Setup) -> int:
    """Responses decoded together by transformers with which the run fits, a power of two; 8 where none does."""
    return next((rows for rows in (256, 128, 64, 32, 16) if fits(replace(setup, max_batch=rows))), 8)


def _largest_micro_batch(setup: Setup) -> int:
    """Tokens of a micro-batch with which the run fits, in steps of 512; the longest sequence's where none does."""
    smallest = -(-setup.longest // 512) * 512
    for tokens in range(setup.tokens_per_micro_batch // 512 * 512, smallest, -512):
        if fits(replace(setup, tokens_per_micro_batch=tokens)):
            return tokens
    return min(smallest, setup.tokens_per_micro_batch)


def _fewest_gpus(setup: Setup) -> int | None:
    gpus = 2 * setup.ranks
    while gpus <= MOST_GPUS:
        if fits(replace(setup, ranks=gpus, shard=True)):
            return gpus
        gpus *= 2
    return None
