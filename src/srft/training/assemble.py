"""From a plan to what a stage works with: the policy, what samples and grades with it, and the loop around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import get_scheduler

from srft.data import TEMPLATES, Problem, Prompt, resolve_path, tokenize_problems
from srft.objective import Tokens, get_method, position_shaping, ppl_shaping
from srft.policy import Critic, Policy, load_model, stop_tokens
from srft.recipe import Recipe
from srft.rollout import make_sampler
from srft.training.display import Display
from srft.training.loop import Loop, Settings
from srft.training.plan import Plan
from srft.training.prompts import Asking, Guidance, Hints, as_it_is
from srft.training.responses import Collector, Sampling
from srft.training.run_dir import RunDir
from srft.training.update import Trained, Updater
from srft.verify import Verifier


class Actor:
    """The policy of a stage and what samples and grades with it; `checkpoint` holds its weights, where there is one."""

    def __init__(self, plan: Plan, accelerator: Accelerator, verifier: Verifier, checkpoint: Path | None) -> None:
        recipe, rollout, tokenizer = plan.recipe, plan.recipe.rollout, plan.tokenizer
        self.policy = Policy(_model(recipe, checkpoint), rollout.temperature).to(accelerator.device)
        sampler = make_sampler(
            rollout.engine,
            self.policy.model,
            pad_token_id=plan.pad_token_id,
            stop_token_ids=stop_tokens(tokenizer, self.policy.model),
            max_model_len=plan.longest_sequence,
            path=resolve_path(str(checkpoint or recipe.model.path)),
            max_batch=rollout.max_batch,
            processes=accelerator.num_processes,
        )
        self.collector = Collector(sampler, verifier, tokenizer, recipe.training.seed, _asking(plan))


def _asking(plan: Plan) -> Asking:
    recipe, tokenizer = plan.recipe, plan.tokenizer
    hint, guidance, data = recipe.rollout.hint, recipe.rollout.guidance, recipe.data
    if hint:
        steps = round(hint.steps * plan.steps)
        return Hints(hint.chunks, hint.start, hint.end, steps, tokenizer, recipe.training.seed)
    if guidance:

        def ask(problem: Problem) -> Prompt:
            limits: dict[str, Any] = {"max_prompt_length": plan.longest_prompt, "max_response_length": 1}
            return tokenize_problems([problem], tokenizer, template=TEMPLATES[data.template], **limits)[0][0]

        return Guidance(guidance.share, plan.patterns, ask)
    return as_it_is


def assemble(
    plan: Plan,
    actor: Actor,
    accelerator: Accelerator,
    directory: RunDir,
    display: Display,
    stage: int,
    done: int,
) -> Loop:
    recipe, needs = plan.recipe, plan.recipe.needs
    optim, training, rollout, evaluation = recipe.optim, recipe.training, recipe.rollout, recipe.evaluation

    def trained(network: Any, lr: float) -> Trained:
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=lr, betas=optim.betas, weight_decay=optim.weight_decay)
        return Trained(*accelerator.prepare(network, optimizer))

    def frozen() -> Policy:
        return Policy(_model(recipe, None), rollout.temperature).to(accelerator.device).eval().requires_grad_(False)

    policy = trained(actor.policy, optim.lr)
    beside, auxiliary_lr = {}, optim.auxiliary_lr or optim.lr
    if "critic" in needs:
        critic = Critic(_model(recipe, None, lora=False)).to(accelerator.device)
        beside["critic"] = trained(critic, auxiliary_lr)
    if "reward_model" in needs:
        judge = Policy(_model(recipe, None), rollout.temperature).to(accelerator.device)
        beside["reward_model"] = trained(judge, auxiliary_lr)
    updater = Updater(
        policy,
        accelerator,
        recipe.loss,
        recipe.method_options,
        optim.max_grad_norm,
        reference=frozen() if needs & {"reference", "reference_distribution"} else None,
        beside=beside,
        shaping=_shaping(recipe),
    )
    buffered = None
    if recipe.buffer.size:
        parameters = [p for p in policy.network.parameters() if p.requires_grad]
        lr = recipe.buffer.lr or optim.lr
        own = torch.optim.AdamW(parameters, lr=lr, betas=optim.betas, weight_decay=optim.weight_decay)
        supervised = Trained(policy.network, accelerator.prepare(own))
        buffered = Updater(supervised, accelerator, get_method(recipe.buffer.method), {}, optim.max_grad_norm)
    schedule = (round(optim.warmup * plan.steps), plan.steps)
    return Loop(
        Settings(
            stage=stage,
            done=done,
            steps=plan.steps,
            prompts_per_step=training.prompts_per_step,
            demonstrations=rollout.demonstrations,
            refill=rollout.refill,
            updates_per_batch=optim.updates_per_batch,
            buffer=recipe.buffer.size,
            tokens_per_micro_batch=training.tokens_per_micro_batch,
            evaluate_every=evaluation.every,
            evaluate_first=evaluation.at_start,
            checkpoint_every=training.checkpoint_every,
            show_every=recipe.logging.samples_every,
            keep_checkpoints=training.keep_checkpoints,
            save_rollouts=recipe.logging.rollouts,
            seed=training.seed,
        ),
        accelerator=accelerator,
        updater=updater,
        buffered=buffered,
        scheduler=get_scheduler(optim.schedule_name, policy.optimizer.optimizer, *schedule),
        collector=actor.collector,
        prompts=plan.prompts,
        evaluations=plan.evaluations,
        needs=needs,
        rollouts=Sampling(recipe.rollouts_per_prompt, rollout.temperature, rollout.top_p, rollout.max_response_length),
        tries=Sampling(
            evaluation.samples,
            evaluation.temperature,
            evaluation.top_p,
            evaluation.max_response_length or rollout.max_response_length,
        ),
        pad_token_id=plan.pad_token_id,
        run=directory,
        display=display,
    )


def _shaping(recipe: Recipe) -> tuple[Callable[[Tokens], Tensor], ...]:
    ppl, position = recipe.advantage.ppl, recipe.advantage.position
    found: list[Callable[[Tokens], Tensor]] = []
    if ppl:
        found.append(lambda t: ppl_shaping(t, ppl.alpha))
    if position:
        found.append(lambda t: position_shaping(t, position.alpha, position.steps))
    return tuple(found)


def _model(recipe: Recipe, checkpoint: Path | None, lora: bool = True) -> Any:
    """The recipe's model, with the checkpoint's weights where there is one."""
    section = recipe.model
    adapters = lora and section.lora is not None
    model = load_model(
        section.path if checkpoint is None or adapters else str(checkpoint),
        changes=section.config,
        attention=section.attention,
        gradient_checkpointing=section.gradient_checkpointing,
        lora=section.lora.model_dump() if section.lora and adapters else None,
        revision=section.revision if checkpoint is None or adapters else None,
        trust_remote_code=section.trust_remote_code,
    )
    if checkpoint is not None and adapters:
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(checkpoint), device="cpu"))
    return model
