"""What is measured before the first update, and under which conditions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from srft.data.problem import Problem
from srft.errors import SrftError
from srft.objective import get_method
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, load_model
from srft.policy.micro_batch import pad
from srft.rollout.response import Response
from srft.training.batches import Batcher
from srft.training.update import TrainedNetwork, Updater
from srft.verify.grade import Verdict
from tests.rollout.test_collector import prompts_of


def responses_of(tokenizer: Any, is_demo: bool) -> list[Response]:
    problems = [Problem(f"Add {i} to 3.", str(i + 3)) for i in range(3)]
    texts = [f"It is \\boxed{{{i + 3}}}." for i in range(3)]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return [
        Response(i, prompt, ids[i], is_demo, truncated=False, text=texts[i], reward=1.0, verdict=Verdict.RIGHT)
        for i, prompt in enumerate(prompts_of(problems, tokenizer))
    ]


def make(
    model: Any, method: str, options: dict[str, Any], precision: str = "no", reference: Any = None, tokens: int = 4096
) -> tuple[Updater, Batcher]:
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    policy = Policy(model)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-3)
    trained = TrainedNetwork(*accelerator.prepare(policy, optimizer))
    updater = Updater(trained, accelerator, get_method(method), options, 1.0, reference=reference)
    limits = {"max_response_length": 64, "tokens_per_micro_batch": tokens, "pad_token_id": 0}
    return updater, Batcher(accelerator, **limits, packed=policy.packed)


def test_old_log_probs_have_no_dropout(tokenizer: Any) -> None:
    pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")
    model = load_model(ModelSettings(path="srft:model", lora={"rank": 4, "dropout": 0.5}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)  # or the adapters' dropout would have nothing to drop
    updater, batcher = make(model, "psft", {})
    batches = [batcher.make(responses_of(tokenizer, is_demo=True), 1) for _ in range(2)]
    updater.update(batches[0])  # leaves the networks in training mode, as every step does
    needs = get_method("psft").needs({})
    one, two = (updater.prepare(batches, needs)[0].fixed[0]["old_logp"] for _ in range(2))
    assert torch.equal(one, two)


def test_in_bf16_kl_to_an_equal_reference_begins_at_0(model: Any, tokenizer: Any) -> None:
    reference = Policy(load_model(ModelSettings(path="srft:model"))).eval().requires_grad_(False)
    updater, batcher = make(model, "grpo", {"kl_weight": 1.0}, "bf16", reference)
    batches = [batcher.make(responses_of(tokenizer, is_demo=False), 1)]
    prepared = updater.prepare(batches, get_method("grpo").needs({"kl_weight": 1.0}))
    assert updater.update_all(prepared)["loss/kl"] == 0.0


@pytest.mark.parametrize("correct", [None, lambda policy, sampler: torch.ones_like(policy)], ids=["", "corrected"])
def test_dropout_is_no_other_sampler(tokenizer: Any, correct: Any) -> None:
    """The policy's log-probs in training differ from its own in sampling: they are not compared."""
    settings = ModelSettings(path="srft:model", config={"attention_dropout": 0.9})
    model = load_model(settings)
    responses = responses_of(tokenizer, is_demo=False)
    with torch.no_grad():
        values = Policy(model).eval()(pad([r.model_input(i) for i, r in enumerate(responses)], 0))
    logprobs = values.logp.split([len(r.token_ids) for r in responses])
    sampled = [replace(r, sampler_logprobs=x.tolist()) for r, x in zip(responses, logprobs, strict=True)]
    updater, batcher = make(model, "grpo", {})
    updater.correct = correct
    prepared = updater.prepare([batcher.make(sampled, 1)], get_method("grpo").needs({}))
    metrics = updater.update_all(prepared)
    gap = metrics.get("sampling/sampling_logp_difference/mean")
    assert gap is None if correct is None else gap < 1e-4  # a correction measures π_old without dropout


def test_a_grossly_other_sampler_stops_the_run_before_an_update(model: Any, tokenizer: Any) -> None:
    updater, batcher = make(model, "grpo", {})
    before = [p.detach().clone() for p in model.parameters()]
    responses = [replace(r, sampler_logprobs=[-9.0] * len(r.token_ids)) for r in responses_of(tokenizer, is_demo=False)]
    with pytest.raises(SrftError, match="samples from another model"):
        updater.update(batcher.make(responses, 1))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("cause", ["reward", "log-prob", "gradient"])
def test_an_update_that_is_not_finite_changes_no_weight(model: Any, tokenizer: Any, cause: str) -> None:
    updater, batcher = make(model, "grpo", {})
    before = [p.detach().clone() for p in model.parameters()]
    first, *rest = responses_of(tokenizer, is_demo=False)
    responses = [first, replace(first, reward=1e39 if cause == "reward" else 0.0), *rest]  # beyond float32
    weight = list(model.parameters())[1]
    if cause == "gradient":
        weight.register_hook(lambda gradient: gradient / 0.0)
    elif cause == "log-prob":
        with torch.no_grad():
            weight.view(-1)[0] = before[1].view(-1)[0] = torch.nan
    metrics = updater.update(batcher.make(responses, 1))
    assert (metrics["skipped_updates"], updater.skipped_in_a_row) == (1, 1)
    for was, now in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(now, was, rtol=0, atol=0, equal_nan=True)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("method", ["srft", "grpo", "sft"])
def test_packed_rows_change_no_number(method: str, tokenizer: Any) -> None:
    """Metrics and the clipped gradient of an update: padded rows, one packed row, and many."""
    demos, rollouts = (responses_of(tokenizer, is_demo) for is_demo in (True, False))
    wrong = [replace(r, token_ids=(*r.token_ids[3:], 2), reward=0.0) for r in rollouts]
    responses = [*demos, *rollouts, *wrong, replace(wrong[0], token_ids=wrong[0].token_ids[:2])]

    def updated(packed: bool, tokens: int) -> tuple[int, dict[str, float], list[torch.Tensor]]:
        model, gradients = load_model(ModelSettings(path="srft:model")), []
        updater, batcher = make(model, method, {}, tokens=tokens)
        updater.policy.network.packed = batcher.packed = packed
        updater.policy.optimizer.optimizer.register_step_pre_hook(
            lambda *_: gradients.extend(p.grad.clone() for p in model.parameters())
        )
        batches = [batcher.make(responses, 1)]
        metrics = updater.update_all(updater.prepare(batches, get_method(method).needs({})))
        return len(batches[0].micro_batches), metrics, gradients

    _, expected, expected_gradients = updated(False, 4096)
    for tokens, few in ((4096, True), (40, False)):
        count, metrics, gradients = updated(True, tokens)
        assert (count == 1) == few
        assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-7)
        for ours, theirs in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
