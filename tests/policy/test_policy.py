"""The chunked forward against the model's own logits, for several families; loading, LoRA, micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPT2Config, GraniteConfig, Qwen2Config

from srft.errors import SrftError
from srft.policy import forward, head
from srft.policy.forward import Critic, Policy
from srft.policy.load import LoraSettings, ModelSettings, load_config, load_model
from srft.policy.micro_batch import ModelInput, make_micro_batches, pad

SIZE = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS = {
    "qwen2": Qwen2Config(**SIZE),
    "gemma2": Gemma2Config(**SIZE, head_dim=8, final_logit_softcapping=5.0),
    "cohere": CohereConfig(**SIZE, logit_scale=0.25),
    "granite": GraniteConfig(**SIZE, logits_scaling=3.0),
    "gpt2": GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
}  # fmt: skip
PAIRS = [([5, 6, 7], [8, 9, 2]), ([3], [4, 5, 6, 7, 2]), ([9, 9, 9, 9, 9], [2])]


def inputs(temperatures: Sequence[float] = (1.0, 1.0, 1.0)) -> list[ModelInput]:
    return [ModelInput(*pair, row, temperatures[row]) for row, pair in enumerate(PAIRS)]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("temperatures", [[1.0, 1.0, 1.0], [0.6, 0.6, 0.6], [1.0, 0.6, 1.7]], ids=str)
def test_forward_is_the_models_own(name: str, temperatures: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "CHUNK", 2)
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 100)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()
    logp, entropy, _ = Policy(model)(pad(inputs(temperatures), 0))
    (logp.sum() + entropy.sum()).backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    expected_logp, expected_entropy = [], []
    for (prompt, response), temperature in zip(PAIRS, temperatures, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        full = (model(input_ids=ids).logits[0] / temperature).log_softmax(-1)[len(prompt) - 1 : -1]
        expected_logp.append(full.gather(-1, torch.tensor(response)[:, None])[:, 0])
        expected_entropy.append(-(full.exp() * full).sum(-1))
    expected_logp, expected_entropy = torch.cat(expected_logp), torch.cat(expected_entropy)
    torch.testing.assert_close(logp, expected_logp, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy, rtol=1e-4, atol=1e-5)
    (expected_logp.sum() + expected_entropy.sum()).backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(grads[n], p.grad, rtol=1e-3, atol=1e-4)


def test_quantities_see_the_whole_vocabulary_and_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """KL(π‖π_ref) from the chunked head against torch's own on the models' full logits, value and gradient."""
    monkeypatch.setattr(forward, "CHUNK", 2)
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 100)
    torch.manual_seed(0)
    model, other = (AutoModelForCausalLM.from_config(CONFIGS["qwen2"], dtype=torch.float32).eval() for _ in range(2))
    policy, reference = Policy(model), Policy(other).requires_grad_(False)
    quantities = {"kl": lambda logp, ref: (logp.exp() * (logp - ref)).sum(-1), "most": lambda logp, ref: logp.amax(-1)}
    _, _, values = policy(pad(inputs(), 0), quantities, reference)
    values["kl"].sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    kl, most = [], []
    for prompt, response in PAIRS:
        ids = torch.tensor([[*prompt, *response]])
        ours, theirs = (m(input_ids=ids).logits[0].log_softmax(-1)[len(prompt) - 1 : -1] for m in (model, other))
        kl.append(torch.nn.functional.kl_div(theirs, ours, reduction="none", log_target=True).sum(-1))
        most.append(ours.amax(-1))
    torch.testing.assert_close(values["kl"], torch.cat(kl), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values["most"], torch.cat(most), rtol=1e-4, atol=1e-5)
    torch.cat(kl).sum().backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(grads[n], p.grad, rtol=1e-3, atol=1e-4)
    assert all(p.grad is None for p in other.parameters())


def test_a_critic_values_the_state_before_each_token() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["qwen2"], dtype=torch.float32).eval()
    critic = Critic(model)
    value = critic(pad(inputs(), 0))
    expected = []
    for prompt, response in PAIRS:
        ids = torch.tensor([[*prompt, *response]])
        hidden = model.model(input_ids=ids).last_hidden_state[0]
        expected.append((hidden @ critic.head.weight[0])[len(prompt) - 1 : -1])
    torch.testing.assert_close(value, torch.cat(expected), rtol=1e-4, atol=1e-6)
    value.sum().backward()
    assert critic.head.weight.grad.abs().max() > 0


def test_no_inputs_are_a_batch_without_tokens() -> None:
    """A rank without work takes part in the backward pass."""
    model = AutoModelForCausalLM.from_config(CONFIGS["qwen2"], dtype=torch.float32)
    (batch,) = make_micro_batches([], 100, 0)
    logp, _, values = Policy(model)(batch, {"most": lambda logp, ref: logp.amax(-1)})
    assert len(logp) == len(values["most"]) == len(Critic(model)(batch)) == 0
    logp.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.model.parameters())


def test_an_unknown_head_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["qwen2"], dtype=torch.float32)
    original = model.forward

    def doubled(*args, **kwargs):
        out = original(*args, **kwargs)
        out.logits = out.logits * 2
        return out

    model.forward = doubled
    with pytest.raises(SrftError, match="does more to its logits"):
        Policy(model)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20), st.integers(1, 60))
def test_micro_batches_hold_every_input_once_within_the_budget(sizes: list[tuple[int, int]], budget: int) -> None:
    drawn = [ModelInput([1] * a, [2] * b, i) for i, (a, b) in enumerate(sizes)]
    batches = make_micro_batches(drawn, budget, 0)
    rows = torch.cat([b.row for b in batches])
    assert torch.equal(torch.bincount(rows, minlength=len(drawn)), torch.tensor([b for _, b in sizes]))
    for batch in batches:
        assert batch.input_ids.numel() <= budget or len(batch.input_ids) == 1
        assert len(batch.before) == len(batch.row)


def test_micro_batches_keep_rows_temperatures_and_the_samplers_logprobs() -> None:
    sampled = ModelInput([5], [6, 7], 1, temperature=0.5, sampler_logprobs=[-0.25, -1.5])
    batch = pad([sampled, ModelInput([8, 9], [2], 0)], pad_token_id=3)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 2]]
    assert batch.row.tolist() == [1, 1, 0]
    assert batch.temperature.tolist() == [0.5, 0.5, 1.0]
    assert batch.sampler_logprobs[:2].tolist() == [-0.25, -1.5]
    assert batch.sampler_logprobs[2:].isnan().all()  # nobody sampled it


def test_the_weights_of_a_lora_policy_are_those_of_the_merged_model() -> None:
    pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")
    model = load_model(ModelSettings(path="srft:model", lora=LoraSettings(rank=4, alpha=8)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    taken = {name: x.clone() for name, x in Policy(model).weights()}
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())  # the policy is unchanged
    merged = model.merge_and_unload().state_dict()
    assert taken.keys() == merged.keys()
    for name, x in taken.items():
        torch.testing.assert_close(x, merged[name], rtol=1e-6, atol=1e-7)


def test_lora_trains_adapters_alone() -> None:
    pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")
    lora = LoraSettings(rank=4, alpha=8)
    model = load_model(ModelSettings(path="srft:model", lora=lora, gradient_checkpointing=True))
    policy = Policy(model)
    policy(pad(inputs(), 0))[0].sum().backward()
    trained = [n for n, p in policy.named_parameters() if p.grad is not None]
    assert trained
    assert all("lora_" in n for n in trained)


def test_config_changes() -> None:
    def changed(**config: Any) -> Any:
        return load_config(ModelSettings(path="srft:model", config=config))

    config = changed(rope_theta=40000.0, max_position_embeddings=1024)
    assert config.rope_parameters["rope_theta"] == 40000.0
    assert config.max_position_embeddings == 1024
    with pytest.raises(SrftError, match="Did you mean 'rope_parameters'"):
        changed(rope_parameter=1)
    with pytest.raises(SrftError, match="hub id"):
        load_config(ModelSettings(path="/nowhere/at/all"))
