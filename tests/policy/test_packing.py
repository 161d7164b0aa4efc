"""One row without padding, prompts shared, gives the values and gradients of each sequence alone; models whose tokens
meet elsewhere than in full attention keep padded rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from srft.policy.forward import Critic, Policy
from srft.policy.micro_batch import ModelInput, make_micro_batches, pad
from srft.policy.packing import response_states

SIZE = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PACKED = {
    "llama": LlamaConfig(**SIZE),
    "qwen2": Qwen2Config(**SIZE),
    "qwen3": Qwen3Config(**SIZE, head_dim=8),
    "qwen3_moe": Qwen3MoeConfig(**SIZE, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, experts_implementation="eager"),
    "gpt2": GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
}  # fmt: skip
PADDED = {
    "sliding window": MistralConfig(**SIZE, sliding_window=6),
    "sliding layers": Gemma2Config(**SIZE, head_dim=8),
    "recurrent": MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2),
    "eager": LlamaConfig(**SIZE, attn_implementation="eager"),
}
PROMPT, OTHER = [5, 6, 7, 8], [9, 3]
INPUTS = [
    ModelInput(PROMPT, [10, 11, 2], 0),
    ModelInput(OTHER, [12, 2], 1, temperature=0.6),
    ModelInput(PROMPT, [13], 2, temperature=0.6),
    ModelInput(PROMPT, [14, 15, 16, 17, 2], 3),
]


def make(config: Any) -> Any:
    """A random model that computes in float64 throughout: the families' own RMSNorm rounds to float32."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                norm = torch.nn.RMSNorm(len(child.weight), eps=1e-6, dtype=torch.float64)
                setattr(module, name, norm)
    return model


def alone(model: Any) -> tuple[Tensor, Tensor]:
    """log π and entropy of each response, the model called on one sequence after the other."""
    logp, entropy = [], []
    for one in INPUTS:
        ids = torch.tensor([[*one.prompt_ids, *one.response_ids]])
        full = model(input_ids=ids).logits[0, len(one.prompt_ids) - 1 : -1] / one.temperature
        full = full.log_softmax(-1)
        logp.append(full.gather(-1, torch.tensor(one.response_ids)[:, None])[:, 0])
        entropy.append(-(full.exp() * full).sum(-1))
    return torch.cat(logp), torch.cat(entropy)


def gradients(model: Any, logp: Tensor, entropy: Tensor) -> dict[str, Tensor]:
    weight = torch.linspace(-1, 2, len(logp), dtype=torch.float64)
    (weight * logp + weight.flip(0) * entropy).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", PACKED)
def test_a_packed_row_is_each_sequence_alone(name: str, checkpointing: bool) -> None:
    model = make(PACKED[name])
    expected = alone(model)
    expected_gradients = gradients(model, *expected)
    policy = Policy(model).train()
    assert policy.packed
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    values = policy(pad(INPUTS, 0))
    tolerance = 1e-7 if "moe" in name else 1e-12  # a router rounds to float32
    for ours, theirs in zip((values.logp, values.entropy), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    for parameter, grad in gradients(model, values.logp, values.entropy).items():
        torch.testing.assert_close(grad, expected_gradients[parameter], rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("name", PADDED)
def test_other_models_keep_padded_rows(name: str) -> None:
    model = make(PADDED[name]).eval()
    expected = alone(model)
    policy = Policy(model)
    assert not policy.packed
    values = policy(pad(INPUTS, 0))
    for ours, theirs in zip((values.logp, values.entropy), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-6, atol=1e-6)


def test_a_model_that_disagrees_keeps_padded_rows() -> None:
    """Whatever its config says: here a model that mixes neighbouring tokens outside its attention."""
    model = make(PACKED["llama"])
    model.model.norm.register_forward_hook(lambda module, args, out: out + out.cumsum(1))
    assert not Policy(model).packed


def test_a_critic_is_packed_too() -> None:
    model = make(PACKED["qwen2"])
    critic = Critic(model).double()
    assert critic.packed
    value = critic(pad(INPUTS, 0))
    critic.packed = False
    torch.testing.assert_close(value, critic(pad(INPUTS, 0)), rtol=1e-12, atol=1e-12)


def test_a_shared_prompt_passes_the_model_once() -> None:
    batch = pad(INPUTS, 0)
    model = make(PACKED["llama"])
    seen = []
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[1]))
    policy = Policy(model)
    seen.clear()
    policy(batch)
    assert seen == [len(PROMPT) + len(OTHER) + sum(len(x.response_ids) for x in INPUTS)] == [len(batch.token)]


def test_packed_micro_batches_keep_a_prompts_responses_together() -> None:
    """Two prompts of 4 and 2 tokens with 9 and 2 response tokens: 17 in all."""
    (whole,) = make_micro_batches(INPUTS, 17, 0, packed=True)
    assert whole.row.unique_consecutive().tolist() == [3, 0, 2, 1]
    one, two = make_micro_batches(INPUTS, 16, 0, packed=True)
    assert [one.row.unique().tolist(), two.row.unique().tolist()] == [[0, 2, 3], [1]]
    assert [len(x.token) for x in make_micro_batches(INPUTS, 9, 0, packed=True)] == [9, 8, 4]


def test_threads_add_the_gradients_of_a_shared_prompt_in_one_order() -> None:
    """Many responses read the state of one prompt: the same bits again with two threads."""
    batch = pad([ModelInput(PROMPT, [10, 2], i) for i in range(1500)], 0)
    hidden = torch.zeros(1, len(batch.token), 64, requires_grad=True)
    weight = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()

    def gradient() -> Tensor:
        states = response_states(lambda **_: SimpleNamespace(last_hidden_state=hidden), batch, packed=True)
        return torch.autograd.grad((weight * states).sum(), hidden)[0]

    torch.set_num_threads(2)
    try:
        assert all(torch.equal(gradient(), gradient()) for _ in range(10))
    finally:
        torch.set_num_threads(threads)
