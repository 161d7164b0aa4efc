"""Weights of tokens that stand for a method: Σ_t −c_t · log π_t has the method's own gradient, through any model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Qwen2Config

from srft.errors import SrftError
from srft.objective import Responses, Tokens, coefficients, get_method
from srft.policy.forward import Policy
from srft.policy.micro_batch import ModelInput, make_micro_batches
from tests.objective.steps import measured, micro_batch, policy, random_step
from tests.objective.test_invariance import IDS, VARIANTS


def has_other_gradients(name: str, options: dict) -> bool:
    return name in ("gem", "sft-kl") or bool(options.get("entropy_bonus"))


def gradient(loss: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    parameters = list(model.parameters())
    grads = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, grads, strict=True)]
    )


def others_apart(t: Tokens) -> Tokens:
    """The critic and the reward model as networks of their own, though here they share the policy's weights."""
    assert t.value is not None
    assert t.reward_logp is not None
    return replace(t, value=t.value.detach().requires_grad_(), reward_logp=t.reward_logp.detach().requires_grad_())


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_weighted_log_likelihood_has_the_methods_gradient(name: str, options: dict) -> None:
    method = get_method(name)

    @settings(max_examples=6, deadline=None, derandomize=True)
    @given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2), st.booleans())
    def check(seed: int, groups: int, rollouts: int, demos: int, on_policy: bool) -> None:
        step, model = random_step(groups, rollouts, demos, seed), policy()
        rows = range(0, len(step.tokens), 2 if seed % 2 else 1)  # a micro-batch, or the whole step
        t = others_apart(micro_batch(model, measured(method, options, step), rows, method, options))
        t = replace(t, old_logp=None) if on_policy else t
        if has_other_gradients(name, options):
            with pytest.raises(SrftError, match=f"'{method.name}'"):
                coefficients(method, t, options)
            return
        c = coefficients(method, t, options)
        own = torch.stack(list(method(t, **options).values())).sum()
        torch.testing.assert_close(gradient(-(c * t.logp).sum(), model), gradient(own, model), rtol=1e-9, atol=1e-12)
        assert not c.requires_grad

    check()


def test_preferences_are_another_librarys() -> None:
    with pytest.raises(SrftError, match="'dpo'"):
        coefficients(get_method("dpo"), micro_batch(policy(), random_step(), [0]))


def test_they_can_be_taken_without_a_graph() -> None:
    t, srft = micro_batch(policy(), random_step(), range(10)), get_method("srft")
    with torch.no_grad():
        plain = replace(t, logp=t.logp.detach(), entropy=t.entropy.detach())
        assert torch.equal(coefficients(srft, plain), coefficients(srft, t))


@pytest.mark.parametrize("name", ["srft", "luffy", "sft", "grpo", "chord", "hpt"])
def test_a_language_model_learns_the_same(name: str) -> None:
    """Per parameter, the policy's own forward pass with its chunked head on either side."""
    torch.manual_seed(0)
    size = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
    model = Policy(AutoModelForCausalLM.from_config(Qwen2Config(**size, **heads), dtype=torch.float64))
    lengths = [3, 5, 2, 4, 6, 1]
    inputs = [ModelInput([1, 2 + row], torch.randint(30, (n,)).tolist(), row) for row, n in enumerate(lengths)]
    table = Responses(
        torch.tensor([1.0, 0, 1, 0, 0, 1]), torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 0, 0, 1]).bool(),
        torch.tensor(lengths), limit=8,
    )  # fmt: skip
    method, grads = get_method(name), []
    for weighted in (False, True):
        model.zero_grad()
        for batch in make_micro_batches(inputs, 16, 0):
            values = model(batch)
            t = Tokens(values.logp, values.entropy, batch.row, table)
            terms = list(method(t).values())
            (-(coefficients(method, t) * t.logp).sum() if weighted else torch.stack(terms).sum()).backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert max(float(g.abs().max()) for g in grads[0].values()) > 1e-4
    for parameter in grads[0]:
        torch.testing.assert_close(grads[1][parameter], grads[0][parameter], rtol=1e-8, atol=1e-12)
