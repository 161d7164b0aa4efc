"""The loop of a stage, with verl's workers and servers in the places of policy and sampler."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from transformers import get_scheduler

from srft.engines.verl.policy import ShardedPolicy
from srft.engines.verl.sampler import VerlSampler
from srft.engines.verl.updater import SequenceBatcher, VerlUpdater
from srft.errors import SrftError
from srft.evaluation.evaluator import Evaluator
from srft.policy.load import stop_token_ids
from srft.rollout.collector import Collector
from srft.run.plan import Plan
from srft.run.select import with_selection
from srft.run.stage import make_correction, make_shaping
from srft.training.collect import StepCollector
from srft.training.display import Display
from srft.training.hooks import HookContext, make_hooks
from srft.training.loop import Loop, StageSpan
from srft.training.prompt_stream import PromptStream
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
) -> Loop:
    """The loop of a stage, on the samples that the stage selects first where its recipe asks for them."""
    recipe, training, optim = plan.recipe, plan.recipe.training, plan.recipe.optim
    sampler = VerlSampler(policy.cluster, stop_token_ids(plan.tokenizer, policy))
    collector = Collector(sampler, verifier.grade, plan.tokenizer, training.seed, plan.prompting)
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
    context = HookContext(
        method=recipe.loss,
        method_options=recipe.method_options,
        make_updater=_no_updater,
        collector=collector,
        batcher=batcher,
        accelerator=accelerator,
        prompts=plan.prompts,
        demonstrations=recipe.rollout.demonstrations,
        seed=training.seed,
        first_step=span.first_step,
    )
    hooks = make_hooks(recipe.hooks, context)
    collect = StepCollector(
        PromptStream(plan.prompts, training.seed),
        collector,
        accelerator,
        sampling=recipe.sampling,
        demonstrations=recipe.rollout.demonstrations,
        prompts_per_step=training.prompts_per_step,
        first_step=span.first_step,
        wrap=[hook.collect for hook in hooks],
    )
    evaluator = Evaluator(
        plan.evaluations,
        collector,
        accelerator,
        seed_purpose="evaluation {}",
        policy=None,
        pad_token_id=plan.pad_token_id,
    )
    warmup = round(optim.warmup * span.steps)
    return Loop(
        span,
        training,
        recipe.evaluation,
        recipe.logging,
        updates_per_batch=optim.updates_per_batch,
        needs=recipe.needs,
        accelerator=accelerator,
        updater=updater,
        inference=policy,
        scheduler=get_scheduler(optim.schedule_name, optimizer, warmup, span.steps),
        collect=collect,
        batcher=batcher,
        hooks=hooks,
        evaluator=evaluator,
        run_dir=run_dir,
        display=display,
    )


def _no_updater(method: str, lr: float | None) -> Updater:
    raise SrftError(f"verl's workers have one optimizer, and '{method}' asks for its own", where="hooks")
