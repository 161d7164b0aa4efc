"""Against the peers' own functions on random tensors: verl's advantages, policy and value losses, aggregation and reward
for length; TRL's GRPO and DFT losses."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from srft.objective import gae, get_method, group_advantage, leave_one_out
from srft.objective.advantage import overlong_penalty, whitened
from srft.objective.terms import aggregate, kl, value_loss
from tests.objective.slow import slope
from tests.objective.steps import Step, gradient, measured, micro_batch, policy, random_step

STEP = random_step(groups=6, rollouts=5, demos=0, seed=7)
ROWS = list(range(len(STEP.tokens)))
WIDTH = int(STEP.table.length.max())


def padded(step: Step, model) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log π, log π_old and the mask, (responses, width), as the peers hold them."""
    logp, old = torch.zeros(len(ROWS), WIDTH).double(), torch.zeros(len(ROWS), WIDTH).double()
    mask = torch.zeros(len(ROWS), WIDTH).double()
    for i in ROWS:
        n = len(step.tokens[i])
        logp[i, :n] = micro_batch(model, step, [i]).logp
        old[i, :n] = step.old[i]
        mask[i, :n] = 1
    return logp, old, mask


@pytest.fixture(scope="module")
def verl():
    return pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed: scripts/setup test")


INDEX = np.array([str(g) for g in STEP.table.group.tolist()], dtype=object)
AGGREGATIONS = [
    ("token-mean", "token-mean"),
    ("sequence-mean", "seq-mean-token-mean"),
    ("token-sum", "seq-mean-token-sum"),
    ("constant", "seq-mean-token-sum-norm"),
]


def grid(x: torch.Tensor) -> torch.Tensor:
    """x (N,) of the whole step as (responses, width)."""
    rows = torch.zeros(len(ROWS), WIDTH, dtype=x.dtype)
    for i, part in enumerate(x.split(STEP.table.length.tolist())):
        rows[i, : len(part)] = part
    return rows


def verl_advantage(verl, mask: torch.Tensor, std: bool, reward: torch.Tensor | None = None) -> torch.Tensor:
    rewards = torch.zeros_like(mask)
    rewards[:, 0] = STEP.table.reward if reward is None else reward
    return verl.compute_grpo_outcome_advantage(rewards, mask, INDEX, norm_adv_by_std_in_grpo=std)[0]


def actor(low: float, high: float, dual: float):
    from verl.workers.config import ActorConfig

    config = ActorConfig(
        strategy="fsdp", rollout_n=5, clip_ratio=low, clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=dual,
        ppo_micro_batch_size_per_gpu=1, use_dynamic_bsz=True,
    )  # fmt: skip
    config.global_batch_info["loss_scale_factor"] = STEP.table.limit
    return config


@pytest.mark.parametrize("std", [True, False])
def test_advantage_is_verls(verl, std: bool) -> None:
    model = policy()
    _, _, mask = padded(STEP, model)
    ours = group_advantage(micro_batch(model, STEP, ROWS), std)
    torch.testing.assert_close(ours[:, None] * mask, verl_advantage(verl, mask, std).double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("ours", "theirs"), AGGREGATIONS)
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.05, 0.05)])
def test_loss_is_verls(verl, ours: str, theirs: str, low: float, high: float) -> None:
    model = policy()
    logp, old, mask = padded(STEP, model)
    loss, _ = verl.compute_policy_loss_vanilla(
        old, logp, verl_advantage(verl, mask, True).double(), mask, theirs, actor(low, high, 1e9)
    )
    loss.backward()
    check(model, float(loss.detach()), {"clip_low": low, "clip_high": high, "aggregation": ours})


def test_dr_grpo_is_verls(verl) -> None:
    model = policy()
    logp, old, mask = padded(STEP, model)
    a = verl_advantage(verl, mask, std=False).double()
    loss, _ = verl.compute_policy_loss_vanilla(old, logp, a, mask, "seq-mean-token-sum-norm", actor(0.2, 0.2, 1e9))
    loss.backward()
    check(model, float(loss.detach()), {}, "dr-grpo")


def verl_reward(buffer: float) -> torch.Tensor:
    """What verl's DAPO reward manager and its grader make of the step's rewards and lengths: every response answers 1,
    which is the truth of the right ones."""
    verl = pytest.importorskip("verl", reason="verl is not installed: scripts/setup test")
    from verl.workers.reward_manager.dapo import DAPORewardManager

    mask = torch.arange(WIDTH) < STEP.table.length[:, None]
    prompts, width = torch.ones(len(ROWS), 1, dtype=torch.long), torch.ones(len(ROWS), WIDTH, dtype=torch.long)
    data = verl.DataProto.from_dict(
        tensors={
            "prompts": prompts, "responses": width, "attention_mask": torch.cat([prompts, mask.long()], 1),
        },
        non_tensors={
            "reward_model": np.array([{"ground_truth": f"{r:.0f}"} for r in STEP.table.reward.tolist()], dtype=object),
            "data_source": np.array(["math_dapo"] * len(ROWS), dtype=object),
        },
    )  # fmt: skip
    manager = DAPORewardManager(
        tokenizer=SimpleNamespace(decode=lambda *a, **k: "Answer: 1", eos_token="</s>"), num_examine=0,
        max_resp_len=STEP.table.limit,
        overlong_buffer_cfg=SimpleNamespace(enable=True, len=buffer * STEP.table.limit, penalty_factor=1.0, log=False),
    )  # fmt: skip
    return manager(data).sum(-1).double()


@pytest.mark.parametrize("buffer", [0.5, 0.75, 0.9375])
def test_overlong_penalty_is_verls(verl, buffer: float) -> None:
    outcome = 2 * STEP.table.reward - 1
    ours = outcome + overlong_penalty(micro_batch(policy(), STEP, ROWS), buffer)
    assert (ours != outcome).any() == (buffer > 0.5)
    torch.testing.assert_close(ours, verl_reward(buffer), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), AGGREGATIONS)
@pytest.mark.parametrize(("dual", "buffer"), [(10.0, 0.2), (3.0, 0.75), (1.4, 0.9375)])
def test_dapo_is_verls(verl, ours: str, theirs: str, dual: float, buffer: float) -> None:
    """Its reward manager's overlong reward, its advantage, its clip-higher and dual clip; and what was clipped."""
    model, record = policy(), {}
    logp, old, mask = padded(STEP, model)
    a = verl_advantage(verl, mask, True, verl_reward(buffer)).double()
    loss, metrics = verl.compute_policy_loss_vanilla(old, logp, a, mask, theirs, actor(0.2, 0.28, dual))
    loss.backward()
    options = {"dual_clip": dual, "overlong_buffer": buffer, "aggregation": ours}
    check(model, float(loss.detach()), options, "dapo")
    get_method("dapo")(replace(micro_batch(policy(), STEP, ROWS), record=record), **options)
    share = float(record["clip_ratio/region_mean"][0]) / record["clip_ratio/region_mean"][1]
    lower = metrics["actor/pg_clipfrac_lower"]
    assert share == pytest.approx(metrics["actor/pg_clipfrac"] + lower, abs=1e-6)
    assert (lower > 0) == (dual < 10)


@pytest.mark.parametrize(("ours", "theirs"), AGGREGATIONS)
def test_aggregation_is_verls(verl, ours: str, theirs: str) -> None:
    t = micro_batch(policy(), STEP, ROWS)
    x = torch.randn(len(t.logp), generator=torch.Generator().manual_seed(0)).double()
    _, _, mask = padded(STEP, policy())
    expected = verl.agg_loss(grid(x), mask, theirs, loss_scale_factor=STEP.table.limit)
    assert float(aggregate(t, x, ours)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("estimator", ["compute_rloo_outcome_advantage", "compute_rloo_vectorized_outcome_advantage"])
def test_leave_one_out_is_verls(verl, estimator: str) -> None:
    _, _, mask = padded(STEP, policy())
    rewards = torch.zeros_like(mask)
    rewards[:, 0] = STEP.table.reward
    expected = getattr(verl, estimator)(rewards, mask, INDEX)[0]
    reward = STEP.table.reward
    ours = reward - leave_one_out(micro_batch(policy(), STEP, ROWS), reward)
    torch.testing.assert_close(ours[:, None] * mask, expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.95, 0.7), (1.0, 0.0)])
def test_gae_is_verls(verl, gamma: float, lam: float) -> None:
    """verl whitens its advantages and not its returns."""
    options = {"gamma": gamma, "lam": lam}
    t = micro_batch(policy(), measured(get_method("ppo"), options, STEP), ROWS)
    _, _, mask = padded(STEP, policy())
    rewards, values = torch.zeros_like(mask), grid(torch.cat(STEP.values))
    rewards[torch.arange(len(ROWS)), STEP.table.length - 1] = STEP.table.reward
    advantage, returns = verl.compute_gae_advantage_return(rewards, values, mask, gamma, lam)
    ours = gae(t, gamma, lam)
    torch.testing.assert_close(grid(ours + torch.cat(STEP.values)), returns * mask, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grid(whitened(t, ours)), advantage * mask, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("clip", [0.05, 0.2, 100.0])
def test_value_loss_is_verls(verl, clip: float) -> None:
    model, other = policy(), policy()
    t, u = micro_batch(model, STEP, ROWS), micro_batch(other, STEP, ROWS)
    returns = torch.randn(len(t.logp), generator=torch.Generator().manual_seed(1)).double() * 3
    _, _, mask = padded(STEP, policy())
    expected, _ = verl.compute_value_loss(grid(u.value), grid(returns), grid(u.old_value), mask, clip)
    ours = value_loss(t, returns, clip)
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(slope(ours, model), slope(expected, other), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("whiten", [True, False])
def test_ppo_is_verls(verl, whiten: bool) -> None:
    """GAE, policy loss and value loss of verl's, one after another."""
    model, other, method = policy(), policy(), get_method("ppo")
    options = {"gamma": 0.95, "lam": 0.7, "whiten": whiten}
    terms = method(micro_batch(model, measured(method, options, STEP), ROWS), **options)
    logp, old, mask = padded(STEP, other)
    rewards, values = torch.zeros_like(mask), grid(torch.cat(STEP.values))
    rewards[torch.arange(len(ROWS)), STEP.table.length - 1] = STEP.table.reward
    advantage, returns = verl.compute_gae_advantage_return(rewards, values, mask, 0.95, 0.7)
    advantage = advantage if whiten else returns - values
    rl, _ = verl.compute_policy_loss_vanilla(old, logp, advantage, mask, "token-mean", actor(0.2, 0.2, 1e9))
    value, _ = verl.compute_value_loss(grid(micro_batch(other, STEP, ROWS).value), returns, values, mask, 0.2)
    for name, theirs in (("rl", rl), ("value", value)):
        assert float(terms[name].detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
        torch.testing.assert_close(slope(terms[name], model), slope(theirs, other), rtol=1e-5, atol=1e-8)


def test_kl_is_verls(verl) -> None:
    model, other = policy(), policy()
    t, u = micro_batch(model, STEP, ROWS), micro_batch(other, STEP, ROWS)
    expected = verl.kl_penalty(u.logp, u.ref_logp, "low_var_kl").mean()
    torch.testing.assert_close(kl(t), expected)
    torch.testing.assert_close(slope(kl(t), model), slope(expected, other))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("sequence-mean", "grpo"), ("token-mean", "bnpo"), ("token-mean", "dapo"), ("constant", "dr_grpo")],
)
@pytest.mark.parametrize("kl_weight", [0.0, 0.04])
def test_loss_is_trls(ours: str, theirs: str, kl_weight: float) -> None:
    model = policy()
    loss = trl_loss(model, theirs, 0.2, 0.28, kl_weight=kl_weight)
    loss.backward()
    options = {"clip_low": 0.2, "clip_high": 0.28, "aggregation": ours, "kl_weight": kl_weight}
    check(model, float(loss.detach()), options)


def trl_loss(
    model,
    loss_type: str,
    low: float,
    high: float,
    *,
    kl_weight: float = 0.0,
    dual: float | None = None,
    std: bool = True,
) -> torch.Tensor:
    """TRL's own loss, given what it would have computed: log-probs, and the advantage with our ε."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer", reason="TRL is not installed: scripts/setup test")
    from accelerate import Accelerator

    logp, old, mask = padded(STEP, model)
    ref = torch.zeros_like(old)
    for i in ROWS:
        ref[i, : len(STEP.ref[i])] = STEP.ref[i]
    stand_in = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp, torch.zeros_like(logp), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level="token", beta=kl_weight, loss_type=loss_type, epsilon_low=low, epsilon_high=high,
        args=SimpleNamespace(delta=dual, use_bias_correction_kl=False), use_vllm=False,
        model=SimpleNamespace(training=False), accelerator=Accelerator(cpu=True), _entropy_bonus_enabled=False,
        _metrics={"eval": defaultdict(list)}, current_gradient_accumulation_steps=1,
        max_completion_length=STEP.table.limit,
    )  # fmt: skip
    prompt = torch.zeros(len(ROWS), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt, "prompt_mask": prompt + 1,
        "completion_ids": torch.zeros(len(ROWS), WIDTH, dtype=torch.long), "completion_mask": mask,
        "advantages": group_advantage(micro_batch(model, STEP, ROWS), std), "old_per_token_logps": old,
        "ref_per_token_logps": ref, "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    return trainer.GRPOTrainer._compute_loss(stand_in, model, inputs)


@pytest.mark.parametrize(
    ("name", "theirs", "high", "dual"),
    [
        ("grpo", "grpo", 0.2, None),
        ("dr-grpo", "dr_grpo", 0.2, None),
        ("dapo", "dapo", 0.28, 10.0),
        ("dapo", "dapo", 0.28, 1.4),
        ("relift", "grpo", 0.2, None),
        ("tapo", "grpo", 0.2, None),
    ],
)
def test_methods_as_they_are_by_default_are_trls(name: str, theirs: str, high: float, dual: float | None) -> None:
    """TRL's two-sided clip (`delta`) is the dual clip; DAPO without overlong responses."""
    model = policy()
    loss = trl_loss(model, theirs, 0.2, high, dual=dual, std=name != "dr-grpo")
    loss.backward()
    options = {"dual_clip": dual, "overlong_buffer": 0.2} if dual else {}
    check(model, float(loss.detach()), options, name)


def test_dft_is_trls() -> None:
    trainer = pytest.importorskip("trl.trainer.sft_trainer", reason="TRL is not installed: scripts/setup test")
    from accelerate import Accelerator

    step = random_step(groups=6, rollouts=1, demos=1, seed=8)
    model, other = policy(), policy()
    logp = micro_batch(other, step, range(12)).demo.logp
    # TRL's own loss, given what its model's head would have computed
    outputs = SimpleNamespace(
        log_probs=logp, label_mask=torch.ones_like(logp), entropy=torch.zeros_like(logp), is_top1=torch.zeros_like(logp)
    )
    stand_in = SimpleNamespace(
        model=SimpleNamespace(training=False), aux_loss_enabled=False, accelerator=Accelerator(cpu=True),
        compute_loss_func=None, label_smoother=None, _metrics={"eval": defaultdict(list)}, _total_train_tokens=0,
        args=SimpleNamespace(loss_type="dft", average_tokens_across_devices=False),
    )  # fmt: skip
    loss = trainer.SFTTrainer.compute_loss(stand_in, lambda **k: outputs, {"labels": None})
    ours = get_method("dft")(micro_batch(model, step, range(12)))["sft"]
    assert float(ours.detach()) == pytest.approx(float(loss.detach()), rel=1e-9)
    torch.testing.assert_close(slope(ours, model), slope(loss, other), rtol=1e-9, atol=1e-12)


def check(model, loss: float, options: dict, name: str = "grpo") -> None:
    actual, grad = gradient(get_method(name), options, STEP, [ROWS])
    assert actual == pytest.approx(loss, rel=1e-6)
    theirs = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(grad, theirs, rtol=1e-6, atol=1e-8)  # verl holds rewards in float32
