"""The loop of a stage, with verl's workers and servers in the places of policy and sampler."""

from __future__ import annotations

from dataclasses import replace

import torch
from accelerate import Accelerator

from srft.engines.verl.policy import ShardedPolicy
from srft.engines.verl.sampler import VerlSampler
from srft.engines.verl.updater import SequenceBatcher, VerlUpdater
from srft.errors import SrftError
from srft.policy.load import stop_token_ids
from srft.rollout.collector import Collector
from srft.run.plan import Plan
from srft.run.select import with_selection
from srft.run.stage import loop_around, make_correction, make_shaping
from srft.training.display import Display
from srft.training.ending import Listener
from srft.training.loop import Loop, StageSpan
from srft.training.run_dir import RunDir
from srft.training.update import TrainedNetwork, Updater
from srft.verify.verifier import Verifier


def make_stage(
    plan: Plan,
    span: StageSpan,
    policy: ShardedPolicy,
    accelerator: Accelerator,
    verifier: Verifier,
    run_dir: RunDir,
    display: Display,
    callbacks: Listener,
) -> Loop:
    """The loop of a stage, on the samples that the stage selects first where its recipe asks for them."""
    recipe, training, optim = plan.recipe, plan.recipe.training, plan.recipe.optim
    sampler = VerlSampler(policy.cluster, stop_token_ids(plan.tokenizer, policy))
    sampler.progress = display.advance
    collector = Collector(sampler, verifier.grade, plan.tokenizer, training.seed, plan.prompting, verifier.accuracy)
    plan = replace(plan, evaluations=[replace(task, held_out=()) for task in plan.evaluations])  # it has no logits
    plan = with_selection(plan, None, collector, accelerator, run_dir.selection(span.stage), span.stage)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=optim.lr)  # for its learning rate alone
    updater = VerlUpdater(
        TrainedNetwork(policy, optimizer),
        accelerator,
        recipe.loss,
        recipe.method_options,
        optim.max_grad_norm,
        shaping=make_shaping(recipe.advantage),
        correct=make_correction(recipe.rollout, sampler),
    )
    updater.begin(recipe.method.file)
    batcher = SequenceBatcher(
        accelerator,
        max_response_length=recipe.rollout.max_response_length,
        tokens_per_micro_batch=training.tokens_per_micro_batch,
        pad_token_id=plan.pad_token_id,
    )
    return loop_around(
        updater, optimizer, batcher, _no_updater, policy, collector,
        plan, span, accelerator, run_dir, display, callbacks,
    )  # fmt: skip


def _no_updater(method: str, lr: float | None) -> Updater:
    raise SrftError(f"verl's workers have one optimizer, and '{method}' asks for its own", where="hooks")
