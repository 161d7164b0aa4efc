"""A run: a recipe in, a run directory out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, set_seed
from rich.console import Console
from torch import Tensor
from transformers import AutoModelForCausalLM, get_scheduler

from srft.data import TEMPLATES, Problem, Prompt, resolve_path, tokenize_problems
from srft.errors import SrftError
from srft.objective import Tokens, get_method, position_shaping, ppl_shaping
from srft.policy import Critic, Pair, Policy, load_model
from srft.recipe import Recipe, load_recipe
from srft.rollout import make_sampler
from srft.training.display import Display
from srft.training.loop import Loop, Settings, load_trainer_state
from srft.training.plan import (
    Plan,
    check_size,
    estimate,
    make_plan,
    with_problems,
)
from srft.training.preference import train_on_pairs
from srft.training.prompts import Asking, Guidance, Hints, as_it_is
from srft.training.responses import Collector, Sampling
from srft.training.run_dir import RunDir
from srft.training.selection import Candidate, needs_scores, read, score, select, write
from srft.training.update import Trained, Updater, gather
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
    state = load_trainer_state(checkpoint) if checkpoint else None
    set_seed(recipe.training.seed)
    with Verifier(recipe.verify.workers, recipe.verify.timeout) as verifier:
        plans = [make_plan(part, verifier, accelerator.num_processes) for part in recipe.parts]
        for plan in plans:
            check_size(estimate(plan), directory.path, accelerator.num_processes)
        if state is None:
            _first(accelerator, lambda: directory.create(recipe.to_yaml(), recipe.training.seed))
        else:
            _first(accelerator, lambda: directory.rewind(state["done"] + state["step"], recipe.to_yaml()))
        display = Display(console if main else None, sum(plan.steps for plan in plans))
        if recipe.logging.trackers:
            accelerator.init_trackers(recipe.logging.project, config=_flat(recipe.model_dump(mode="json")))
        finished, done = True, 0
        for stage, plan in enumerate(plans, 1):
            if state and stage < state["stage"]:
                continue
            here = state if state and stage == state["stage"] else None
            done = here["done"] if here else done
            actor = _Actor(plan, accelerator, verifier, directory.checkpoint if state or stage > 1 else None)
            plan = _selected(plan, actor, accelerator, directory, stage)
            display.say(_headline(plan, accelerator, directory, f"stage {stage}: " if recipe.stages else ""))
            loop = _assemble(plan, actor, accelerator, directory, display, stage, done)
            if here:
                loop.restore(here)
            learn = partial(_prefer, plan) if "preferences" in plan.recipe.needs else Loop.train
            finished = learn(loop, here["step"] if here else 0)
            done += plan.steps
            accelerator.free_memory()
            finished = finished and not (loop.interrupted and stage < len(plans))
            if not finished:
                break
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


class _Actor:
    """The policy of a stage and what samples and grades with it. `checkpoint` holds its weights, where there is one."""

    def __init__(self, plan: Plan, accelerator: Accelerator, verifier: Verifier, checkpoint: Path | None) -> None:
        recipe, rollout, tokenizer = plan.recipe, plan.recipe.rollout, plan.tokenizer
        self.checkpoint = checkpoint
        self.policy = Policy(_model(recipe, checkpoint), rollout.temperature).to(accelerator.device)
        sampler = make_sampler(
            rollout.engine,
            self.policy.model,
            pad_token_id=plan.pad_token_id,
            stop_token_ids=_stop_tokens(tokenizer, self.policy.model),
            max_model_len=plan.longest_sequence,
            path=resolve_path(str(checkpoint or recipe.model.path)),
            max_batch=rollout.max_batch,
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


def _selected(plan: Plan, actor: _Actor, accelerator: Accelerator, directory: RunDir, stage: int) -> Plan:
    """The plan on the policy's own selected samples, where its recipe asks for them; kept in the run directory."""
    recipe, how = plan.recipe, plan.recipe.data.selection
    if how is None:
        return plan
    file = directory.path / f"selection-{stage}.jsonl"
    if not file.exists():
        rank, ranks, rollout = accelerator.process_index, accelerator.num_processes, recipe.rollout
        mine = list(enumerate(plan.prompts))[rank::ranks]
        sampling = Sampling(how.n, rollout.temperature, rollout.top_p, rollout.max_response_length)
        with accelerator.autocast():
            found = actor.collector.rollouts(mine, sampling, f"selection {stage}")
            scores = [(0.0, 0.0)] * len(found)
            if needs_scores(how):
                pairs = [Pair(r.prompt.ids, r.token_ids, i) for i, r in enumerate(found)]
                scores = score(actor.policy, pairs, recipe.training.tokens_per_micro_batch, plan.pad_token_id)
        rows = [(r.slot, r.text, r.grade.score >= 1, *s) for r, s in zip(found, scores, strict=True)]
        candidates = [Candidate(plan.prompts[slot].problem, *rest) for slot, *rest in sorted(gather(accelerator, rows))]
        chosen = select(candidates, how, recipe.training.seed)
        _first(accelerator, lambda: write(file, chosen))
    return with_problems(plan, read(file))


def _assemble(
    plan: Plan,
    actor: _Actor,
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


def _prefer(plan: Plan, loop: Loop, start: int) -> bool:
    """A stage on preference pairs: TRL trains, our run directory keeps what comes of it. It has no step in between to
    continue from."""
    recipe, accelerator, began = plan.recipe, loop.accelerator, time.perf_counter()
    if start >= plan.steps:
        return True
    if start:
        raise SrftError(
            f"a finished stage of '{recipe.method.name}' cannot go on from step {start} to {plan.steps}",
            where="training.steps",
            fix="Train it anew, as long as you want it.",
        )
    if loop.settings.done == 0 and loop.settings.evaluate_first:
        loop.evaluate(0)

    def report(step: int, logs: Mapping[str, float]) -> None:
        metrics = {"loss/dpo": logs["loss"], **{k: v for k, v in logs.items() if k not in ("loss", "epoch")}}
        loop.report(step, metrics, (), (time.perf_counter() - began) / step)

    model = accelerator.unwrap_model(loop.updater.policy.network).model
    template = TEMPLATES[recipe.data.template]
    train_on_pairs(recipe, model, plan.tokenizer, template, plan.prompts, plan.steps, accelerator.num_processes, report)
    loop.save(plan.steps)
    loop.evaluate(plan.steps)
    return True


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


def _stop_tokens(tokenizer: Any, model: Any) -> set[int]:
    """Whatever ends a response: the tokenizer's EOS and those of the model's generation config."""
    also = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return {int(tokenizer.eos_token_id), *(also if isinstance(also, list) else [also] if also is not None else [])}


def _headline(plan: Plan, accelerator: Accelerator, directory: RunDir, stage: str) -> str:
    recipe = plan.recipe
    rollouts = recipe.rollouts_per_prompt if "rollouts" in recipe.needs else "no"
    counts, lost = plan.counts, ""
    if counts.truncated or counts.dropped or plan.dropped_answers:
        lost = (
            f"\n{counts.truncated} over-long demonstrations truncated, {counts.dropped} dropped with "
            f"{plan.dropped_prompts} prompts; {plan.dropped_answers} problems dropped for their answer"
        )
    return (
        f"{stage}{recipe.method.name} on {recipe.model.path}: {len(plan.prompts)} problems, {plan.steps} steps of "
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
