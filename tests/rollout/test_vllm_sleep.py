"""When the engine sleeps on a GPU, against a vLLM that notes it; the real one sleeps on a GPU alone."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srft.policy.load import ModelSettings
from srft.rollout.sampler import SampleRequest, SamplingParams
from srft.rollout.samplers.vllm import VllmSampler


class Engine:
    """vLLM's `LLM`, as far as the sampler uses it: refuses to work on memory that it has given back."""

    def __init__(self, **options: Any) -> None:
        self.options, self.resident, self.events = options, {"weights", "kv_cache"}, []
        model = SimpleNamespace(load_weights=self.load_weights)
        worker = SimpleNamespace(worker=SimpleNamespace(model_runner=SimpleNamespace(model=model)))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))

    def sleep(self, level: int) -> None:
        assert self.options["enable_sleep_mode"]
        assert level == 1  # its weights come back
        self.resident = set()
        self.events.append("sleep")

    def wake_up(self, tags: list[str]) -> None:
        assert not self.resident & set(tags)
        self.resident |= set(tags)

    def generate(self, prompts: Any, parameters: Any, use_tqdm: Any, lora_request: Any) -> list[Any]:
        assert self.resident == {"weights", "kv_cache"}
        self.events.append("generate")
        output = SimpleNamespace(
            index=0, token_ids=[7], logprobs=[{7: SimpleNamespace(logprob=-1.0)}], finish_reason="stop"
        )
        return [SimpleNamespace(outputs=[output]) for _ in prompts]

    def load_weights(self, weights: Any) -> None:
        assert "weights" in self.resident
        self.events.append(f"load {[name for name, _ in weights]}")

    def reset_prefix_cache(self) -> None:
        pass


@pytest.mark.parametrize("sleeps", [True, False])
def test_it_sleeps_between_phases(monkeypatch: pytest.MonkeyPatch, sleeps: bool) -> None:
    platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: False))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Engine, SamplingParams=lambda **options: options))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    options = VllmSampler.Options(gpu_memory=0.3, sleep=sleeps)
    sampler = VllmSampler(ModelSettings(path="srft:model"), stop_token_ids={1}, max_model_len=64, options=options)
    weights = [("w", torch.zeros(1))]
    requests, params = [SampleRequest([3, 4], 5)], SamplingParams(n=1, max_response_length=4)
    sampler.update_weights(weights)
    for _ in range(2):  # an evaluation and a step between two updates
        sampler.sample(requests, params)
    sampler.update_weights(weights)
    sampler.sample(requests, params)
    engine: Any = sampler.llm
    assert engine.options["gpu_memory_utilization"] == 0.3
    slept = ["sleep"] if sleeps else []
    loaded = ["load ['w']"]
    assert engine.events == [*loaded, *(["generate", *slept] * 2), *loaded, "generate", *slept]
    assert engine.resident == (set() if sleeps else {"weights", "kv_cache"})
