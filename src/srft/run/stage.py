"""From a plan to what a stage works with: the policy, what samples and grades with it, and the loop around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import get_scheduler

from srft.evaluation.evaluator import Evaluator
from srft.objective import Tokens, get_method, position_shaping, ppl_shaping
from srft.objective.correction import importance_weight
from srft.policy.forward import Critic, Policy
from srft.policy.load import MASTER_DTYPE, WHOLE, empty_model, load_model
from srft.policy.sharding import is_sharded, shard, whole_copy
from srft.processes import first
from srft.rollout.collector import Collector
from srft.rollout.engine import make_sampler
from srft.rollout.sampler import Sampler
from srft.rollout.samplers import pick_sampler
from srft.rollout.settings import RolloutSettings
from srft.run.plan import Plan
from srft.seed import derive_seed
from srft.training.batches import Batcher
from srft.training.collect import StepCollector
from srft.training.display import Display
from srft.training.ending import Listener
from srft.training.hooks import HookContext, make_hooks
from srft.training.loop import Loop, StageSpan
from srft.training.prompt_stream import PromptStream
from srft.training.run_dir import RunDir
from srft.training.settings import AdvantageSettings
from srft.training.update import TrainedNetwork, Updater
from srft.verify.verifier import Verifier


def make_policy(plan: Plan, accelerator: Accelerator, checkpoint: Path | None) -> Policy:
    """The policy of a stage, with the checkpoint's weights where there is one."""
    policy = _network(lambda load: Policy(load(plan.recipe.model, checkpoint)), plan, accelerator)
    # What ends a response: a process that did not read the model does not know it.
    policy.causal_lm.generation_config = broadcast_object_list([policy.causal_lm.generation_config])[0]
    return policy


def make_inference(plan: Plan, policy: Policy, accelerator: Accelerator) -> Policy:
    """What samples, and scores samples: the policy itself, or a whole copy in each process where the policy is sharded,
    whose passes are common to all processes."""
    recipe = plan.recipe
    engine = pick_sampler(recipe.rollout.engine)
    scored = recipe.evaluation.statistics or any(task.held_out for task in plan.evaluations)
    wanted = engine.is_policy or scored or recipe.data.selection is not None
    if not (wanted and is_sharded(policy)):
        return policy
    settings = recipe.model.model_copy(update={**WHOLE, "gradient_checkpointing": False})
    return whole_copy(policy, empty_model(settings, _compute_dtype(accelerator) or MASTER_DTYPE))


def make_collector(plan: Plan, inference: Policy, verifier: Verifier) -> Collector:
    """What samples from the policy and grades."""
    recipe = plan.recipe
    sampler = make_sampler(recipe.rollout, inference, recipe.model, plan.tokenizer, max_model_len=plan.longest_sequence)
    seed = recipe.training.seed
    return Collector(sampler, verifier.grade, plan.tokenizer, seed, plan.prompting, verifier.accuracy)


def make_loop(
    plan: Plan,
    span: StageSpan,
    policy: Policy,
    inference: Policy,
    collector: Collector,
    accelerator: Accelerator,
    run_dir: RunDir,
    display: Display,
    callbacks: Listener,
) -> Loop:
    """The loop of a stage."""
    recipe, training, optim = plan.recipe, plan.recipe.training, plan.recipe.optim
    trained_policy = _trained(policy, plan, accelerator, optim.lr)
    updater = Updater(
        trained_policy,
        accelerator,
        recipe.loss,
        recipe.method_options,
        optim.max_grad_norm,
        reference=_reference(plan, accelerator),
        auxiliary=_auxiliary_networks(plan, accelerator),
        shaping=make_shaping(recipe.advantage),
        correct=make_correction(recipe.rollout, collector.sampler),
    )

    def make_updater(method: str, lr: float | None) -> Updater:
        """Of the same policy, with an optimizer of its own."""
        optimizer = accelerator.prepare(_optimizer(trained_policy.network, plan, lr or optim.lr))
        network = TrainedNetwork(trained_policy.network, optimizer)
        return Updater(network, accelerator, get_method(method), {}, optim.max_grad_norm)

    batcher = Batcher(
        accelerator,
        max_response_length=recipe.rollout.max_response_length,
        tokens_per_micro_batch=training.tokens_per_micro_batch,
        pad_token_id=plan.pad_token_id,
        packed=policy.packed,
    )
    return loop_around(
        updater, trained_policy.optimizer.optimizer, batcher, make_updater, inference, collector,
        plan, span, accelerator, run_dir, display, callbacks,
    )  # fmt: skip


def loop_around(
    updater: Updater,
    optimizer: torch.optim.Optimizer,
    batcher: Batcher,
    make_updater: Callable[[str, float | None], Updater],
    inference: Any,
    collector: Collector,
    plan: Plan,
    span: StageSpan,
    accelerator: Accelerator,
    run_dir: RunDir,
    display: Display,
    callbacks: Listener,
) -> Loop:
    """The loop of a stage around an engine's parts.

    Args:
        optimizer: whose learning rate the schedule sets.
        make_updater: of the same policy by another method, for hooks.
        inference: what samples and scores.
    """
    recipe, training, optim = plan.recipe, plan.recipe.training, plan.recipe.optim
    context = HookContext(
        method=recipe.loss,
        method_options=recipe.method_options,
        make_updater=make_updater,
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
        policy=inference if recipe.evaluation.statistics else None,
        pad_token_id=plan.pad_token_id,
        scorer=inference,
    )
    updater.progress = display.advance
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
        inference=inference,
        scheduler=get_scheduler(optim.schedule_name, optimizer, warmup, span.steps),
        collect=collect,
        batcher=batcher,
        hooks=hooks,
        evaluator=evaluator,
        run_dir=run_dir,
        display=display,
        callbacks=callbacks,
        warnings=plan.warnings,
    )


def _network(build: Callable[[Callable[..., Any]], nn.Module], plan: Plan, accelerator: Accelerator) -> Any:
    """A network where it computes, sharded where the plan says so. `build` makes it with the loader of models that it
    is given: of the processes that shard it the first alone reads weights. What it draws for them (a critic's head,
    adapters) depends on the recipe's seed alone, not on what was drawn before."""
    training = plan.recipe.training
    torch.manual_seed(derive_seed(training.seed, "initial weights"))
    if not training.shard:
        return build(load_model).to(accelerator.device)
    read: list[nn.Module] = []
    first(accelerator, lambda: read.append(build(load_model)))
    with torch.device("meta"):
        (network,) = read or [build(lambda settings, checkpoint=None: empty_model(settings))]
    return shard(network, accelerator.device, _compute_dtype(accelerator), offload=training.offload)


def _compute_dtype(accelerator: Accelerator) -> torch.dtype | None:
    """Of a sharded network's computation; None: that of its weights."""
    return torch.bfloat16 if accelerator.mixed_precision == "bf16" else None


def _trained(network: Any, plan: Plan, accelerator: Accelerator, lr: float) -> TrainedNetwork:
    optimizer = _optimizer(network, plan, lr)
    if is_sharded(network):  # accelerate adds no more than the precision of the pass
        network = accelerator.prepare_model(network, device_placement=False, evaluation_mode=True)
        return TrainedNetwork(network, accelerator.prepare(optimizer))
    return TrainedNetwork(*accelerator.prepare(network, optimizer))


def _optimizer(network: Any, plan: Plan, lr: float) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    optim = plan.recipe.optim
    return torch.optim.AdamW(parameters, lr=lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True)


def _auxiliary_networks(plan: Plan, accelerator: Accelerator) -> dict[str, TrainedNetwork]:
    """The critic or the reward model, where the method needs one."""
    recipe, networks = plan.recipe, {}
    lr = recipe.optim.auxiliary_lr or recipe.optim.lr
    if "critic" in recipe.needs:
        whole = recipe.model.model_copy(update=WHOLE)
        critic = _network(lambda load: Critic(load(whole)), plan, accelerator)
        networks["critic"] = _trained(critic, plan, accelerator, lr)
    if "reward_model" in recipe.needs:
        reward_model = _network(lambda load: Policy(load(recipe.model)), plan, accelerator)
        networks["reward_model"] = _trained(reward_model, plan, accelerator, lr)
    return networks


def _reference(plan: Plan, accelerator: Accelerator) -> Policy | None:
    if not plan.recipe.needs & {"reference", "reference_distribution"}:
        return None
    return _network(lambda load: Policy(load(plan.recipe.model)).eval().requires_grad_(False), plan, accelerator)


def make_correction(rollout: RolloutSettings, sampler: Sampler) -> Callable[[Tensor, Tensor], Tensor] | None:
    """None where none is asked for, or the sampler is the policy itself."""
    if rollout.correction == "none" or sampler.is_policy:
        return None
    return partial(importance_weight, correction=rollout.correction, cap=rollout.correction_cap)


def make_shaping(advantage: AdvantageSettings) -> tuple[Callable[[Tokens], Tensor], ...]:
    """The changes to every advantage, in order."""
    ppl, position = advantage.ppl, advantage.position
    shaping: list[Callable[[Tokens], Tensor]] = []
    if ppl:
        shaping.append(lambda t: ppl_shaping(t, ppl.alpha))
    if position:
        shaping.append(lambda t: position_shaping(t, position.alpha, position.steps))
    return tuple(shaping)
