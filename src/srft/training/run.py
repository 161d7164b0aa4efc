"""A run: a recipe in, a run directory out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, set_seed
from rich.console import Console
from transformers import AutoModelForCausalLM, get_scheduler

from srft.data import resolve_path
from srft.errors import SrftError
from srft.policy import Policy, load_model
from srft.recipe import Recipe, load_recipe
from srft.rollout import make_sampler
from srft.training.display import Display
from srft.training.loop import Loop, Settings, load_trainer_state
from srft.training.plan import Plan, check_size, estimate, make_plan
from srft.training.responses import Collector, Sampling
from srft.training.run_dir import RunDir
from srft.training.update import Updater
from srft.verify import Verifier


@dataclass(frozen=True)
class Run:
    """A finished or interrupted run: `directory` reads its files."""

    directory: RunDir
    finished: bool

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return self.directory.metrics

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        return self.directory.evaluations

    def load(self) -> Any:
        """The trained model, by transformers."""
        return AutoModelForCausalLM.from_pretrained(self.directory.checkpoint)


def train(
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> Run:
    """Train as the recipe says; the same call on every process of `accelerate launch`.

    Args:
        recipe: from `load_recipe`; when resuming, the run's own if left out.
        out: the run directory, `runs/<recipe>-<time>` if left out.
        resume: continue the run in `out` from its newest checkpoint.
        console: where to show progress; silent if left out.

    Raises:
        SrftError: before training starts, for whatever is wrong with recipe, data, model or machine.
    """
    if resume:
        if out is None or not (Path(out) / "recipe.yaml").is_file():
            raise SrftError("there is no run to continue", where=f"--out {out}", fix="Name its folder with --out.")
        recipe = recipe or load_recipe(Path(out) / "recipe.yaml")
    if recipe is None:
        raise SrftError("no recipe given", fix="Name one: see `srft recipes`.")
    accelerator = _accelerator(recipe, out)
    main = accelerator.is_main_process
    directory = RunDir(_agree(str(out or f"runs/{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}")))
    checkpoint = directory.checkpoint if resume else None
    set_seed(recipe.training.seed)
    verify = recipe.verify
    with Verifier(verify.workers, verify.timeout, function=verify.function) as verifier:
        plan = make_plan(recipe, verifier, accelerator.num_processes)
        check_size(estimate(plan), directory.path, accelerator.num_processes)
        if checkpoint is None:
            _first(accelerator, lambda: directory.create(recipe.to_yaml(), recipe.training.seed))
        display = Display(console if main else None, plan.steps)
        display.say(_headline(plan, accelerator, directory))
        loop, start = _assemble(plan, accelerator, verifier, directory, display, checkpoint)
        if checkpoint is not None:
            _first(accelerator, lambda: directory.rewind(start, recipe.to_yaml()))
        finished = loop.train(start)
    accelerator.end_training()
    display.say(
        f"Done: {directory.path} (model: {directory.checkpoint})"
        if finished
        else f"Saved. To continue: srft train --resume --out {directory.path}"
    )
    return Run(directory, finished)


def _accelerator(recipe: Recipe, out: str | Path | None) -> Accelerator:
    training = recipe.training
    cpu = training.device == "cpu" or not torch.cuda.is_available()
    precision = ("no" if cpu else "bf16") if training.precision == "auto" else training.precision
    AcceleratorState._reset_state()  # another run of this process may have had another precision
    return Accelerator(
        cpu=cpu,
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=list(recipe.logging.trackers) or None,
        project_dir=str(out or "runs"),
    )


def _agree(path: str) -> str:
    """The first process's path, for all: the default has the time in it."""
    return str(broadcast_object_list([path])[0])


def _first(accelerator: Accelerator, act: Callable[[], None]) -> None:
    """Let the first process act; all raise when it fails, rather than wait for it for ever."""
    failure: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            act()
        except SrftError as error:
            failure = [error]
    failure = broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]


def _assemble(
    plan: Plan,
    accelerator: Accelerator,
    verifier: Verifier,
    directory: RunDir,
    display: Display,
    checkpoint: Path | None,
) -> tuple[Loop, int]:
    recipe, tokenizer = plan.recipe, plan.tokenizer
    options, optim, training, rollout = recipe.method_options, recipe.optim, recipe.training, recipe.rollout
    needs = recipe.loss.needs(options)
    policy = Policy(_model(recipe, checkpoint), rollout.temperature).to(accelerator.device)
    optimizer = torch.optim.AdamW(
        [p for p in policy.parameters() if p.requires_grad],
        lr=optim.lr,
        betas=optim.betas,
        weight_decay=optim.weight_decay,
    )
    scheduler = get_scheduler(optim.schedule_name, optimizer, round(optim.warmup * plan.steps), plan.steps)
    start, skipped = 0, 0
    if checkpoint is not None:
        state = load_trainer_state(checkpoint)
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        start, skipped = state["step"], state["skipped"]
    policy, optimizer = accelerator.prepare(policy, optimizer)
    model = accelerator.unwrap_model(policy).model
    stop = _stop_tokens(tokenizer, model)
    sampler = make_sampler(
        rollout.engine,
        model,
        pad_token_id=plan.pad_token_id,
        stop_token_ids=stop,
        max_model_len=recipe.data.max_prompt_length
        + max(rollout.max_response_length, recipe.evaluation.max_response_length or 0),
        path=resolve_path(str(checkpoint or recipe.model.path)),
        max_batch=rollout.max_batch,
    )
    updater = Updater(policy, optimizer, accelerator, recipe.loss, options, optim.max_grad_norm)
    updater.skipped = skipped
    if recipe.logging.trackers:
        accelerator.init_trackers(recipe.logging.project, config=_flat(recipe.model_dump(mode="json")))
    reference = None
    if "reference" in needs:
        reference = (
            Policy(_model(recipe, None), rollout.temperature).to(accelerator.device).eval().requires_grad_(False)
        )
    evaluation, logging = recipe.evaluation, recipe.logging
    loop = Loop(
        Settings(
            steps=plan.steps,
            prompts_per_step=training.prompts_per_step,
            demonstrations=rollout.demonstrations,
            updates_per_batch=optim.updates_per_batch,
            tokens_per_micro_batch=training.tokens_per_micro_batch,
            evaluate_every=evaluation.every,
            evaluate_first=evaluation.at_start,
            checkpoint_every=training.checkpoint_every,
            show_every=logging.samples_every,
            keep_checkpoints=training.keep_checkpoints,
            save_rollouts=logging.rollouts,
            seed=training.seed,
        ),
        accelerator=accelerator,
        updater=updater,
        scheduler=scheduler,
        reference=reference,
        collector=Collector(sampler, verifier, tokenizer, training.seed),
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
    return loop, start


def _model(recipe: Recipe, checkpoint: Path | None) -> Any:
    """The recipe's model, with the checkpoint's weights where there is one."""
    section = recipe.model
    adapters = section.lora is not None
    model = load_model(
        section.path if checkpoint is None or adapters else str(checkpoint),
        changes=section.config,
        attention=section.attention,
        gradient_checkpointing=section.gradient_checkpointing,
        lora=section.lora.model_dump() if section.lora else None,
        revision=section.revision if checkpoint is None or adapters else None,
        trust_remote_code=section.trust_remote_code,
    )
    if checkpoint is not None and adapters:
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(checkpoint), device="cpu"))
    return model


def _stop_tokens(tokenizer: Any, model: Any) -> set[int]:
    """Whatever ends a response: the tokenizer's EOS and those of the model's generation config."""
    also = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return {int(tokenizer.eos_token_id), *(also if isinstance(also, list) else [also] if also is not None else [])}


def _headline(plan: Plan, accelerator: Accelerator, directory: RunDir) -> str:
    recipe = plan.recipe
    rollouts = recipe.rollouts_per_prompt if "rollouts" in recipe.loss.needs(recipe.method_options) else "no"
    counts, lost = plan.counts, ""
    if counts.truncated or counts.dropped or plan.dropped_answers:
        lost = (
            f"\n{counts.truncated} over-long demonstrations truncated, {counts.dropped} dropped with "
            f"{plan.dropped_prompts} prompts; {plan.dropped_answers} problems dropped for their answer"
        )
    return (
        f"{recipe.method.name} on {recipe.model.path}: {len(plan.prompts)} problems, {plan.steps} steps of "
        f"{recipe.training.prompts_per_step} prompts, {rollouts} rollouts each; "
        f"{accelerator.num_processes} × {accelerator.device.type}; {directory.path}{lost}"
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, int | float | str) else str(value)
    return found
