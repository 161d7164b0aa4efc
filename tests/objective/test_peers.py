"""GRPO against the peers' own functions on random tensors: verl's advantage, policy loss and aggregation, and TRL's
`_compute_loss`."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from srft.objective import group_advantage, grpo
from tests.objective.steps import Step, gradient, micro_batch, policy, random_step

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


def verl_advantage(verl, mask: torch.Tensor, std: bool) -> torch.Tensor:
    rewards = torch.zeros_like(mask)
    rewards[:, 0] = STEP.table.reward
    index = np.array([str(g) for g in STEP.table.group.tolist()], dtype=object)
    return verl.compute_grpo_outcome_advantage(rewards, mask, index, norm_adv_by_std_in_grpo=std)[0]


@pytest.mark.parametrize("std", [True, False])
def test_advantage_is_verls(verl, std: bool) -> None:
    model = policy()
    _, _, mask = padded(STEP, model)
    ours = group_advantage(micro_batch(model, STEP, ROWS), std)
    torch.testing.assert_close(ours[:, None] * mask, verl_advantage(verl, mask, std).double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("token-mean", "token-mean"),
        ("sequence-mean", "seq-mean-token-mean"),
        ("token-sum", "seq-mean-token-sum"),
        ("constant", "seq-mean-token-sum-norm"),
    ],
)
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.05, 0.05)])
def test_loss_is_verls(verl, ours: str, theirs: str, low: float, high: float) -> None:
    from verl.workers.config import ActorConfig

    model = policy()
    logp, old, mask = padded(STEP, model)
    config = ActorConfig(
        strategy="fsdp", rollout_n=5, clip_ratio=low, clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=1e9,
        ppo_micro_batch_size_per_gpu=1, use_dynamic_bsz=True,
    )  # fmt: skip
    config.global_batch_info["loss_scale_factor"] = STEP.table.limit
    loss, _ = verl.compute_policy_loss_vanilla(
        old, logp, verl_advantage(verl, mask, True).double(), mask, theirs, config
    )
    loss.backward()
    check(model, float(loss.detach()), {"clip_low": low, "clip_high": high, "aggregation": ours})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("sequence-mean", "grpo"), ("token-mean", "bnpo"), ("token-mean", "dapo"), ("constant", "dr_grpo")],
)
@pytest.mark.parametrize("kl_weight", [0.0, 0.04])
def test_loss_is_trls(ours: str, theirs: str, kl_weight: float) -> None:
    trainer = pytest.importorskip("trl.trainer.grpo_trainer", reason="TRL is not installed: scripts/setup test")
    from accelerate import Accelerator

    model = policy()
    logp, old, mask = padded(STEP, model)
    ref = torch.zeros_like(old)
    for i in ROWS:
        ref[i, : len(STEP.ref[i])] = STEP.ref[i]
    # TRL's own loss, given what it would have computed: log-probs, and the advantage with our ε.
    stand_in = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp, torch.zeros_like(logp), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level="token", beta=kl_weight, loss_type=theirs, epsilon_low=0.2, epsilon_high=0.28,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False), use_vllm=False,
        model=SimpleNamespace(training=False), accelerator=Accelerator(cpu=True), _entropy_bonus_enabled=False,
        _metrics={"eval": defaultdict(list)}, current_gradient_accumulation_steps=1,
        max_completion_length=STEP.table.limit,
    )  # fmt: skip
    prompt = torch.zeros(len(ROWS), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt, "prompt_mask": prompt + 1,
        "completion_ids": torch.zeros(len(ROWS), WIDTH, dtype=torch.long), "completion_mask": mask,
        "advantages": group_advantage(micro_batch(model, STEP, ROWS)), "old_per_token_logps": old,
        "ref_per_token_logps": ref, "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    loss = trainer.GRPOTrainer._compute_loss(stand_in, model, inputs)
    loss.backward()
    options = {"clip_low": 0.2, "clip_high": 0.28, "aggregation": ours, "kl_weight": kl_weight}
    check(model, float(loss.detach()), options)


def check(model, loss: float, options: dict) -> None:
    found, grad = gradient(grpo, options, STEP, [ROWS])
    assert found == pytest.approx(loss, rel=1e-6)
    theirs = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(grad, theirs, rtol=1e-6, atol=1e-9)
