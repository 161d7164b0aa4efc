"""A stage on preference pairs: TRL trains, our run directory keeps what comes of it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from srft.errors import SrftError
from srft.run.plan import Plan
from srft.training.ending import Ending
from srft.training.loop import Loop
from srft.training.preference import train_on_pairs


def train_preferences(plan: Plan, loop: Loop, start: int) -> Ending | None:
    """Train the stage by TRL. It has no step in between to continue from.

    Raises:
        SrftError: it was begun and not finished, or is to go on past its end.
    """
    recipe, steps = plan.recipe, plan.steps
    if start >= steps:
        return "finished"
    if start:
        raise SrftError(
            f"a finished stage of '{recipe.method.name}' cannot go on from step {start} to {steps}",
            where="training.steps",
            fix="Train it anew, as long as you want it.",
        )
    if loop.span.first_step == 0 and loop.evaluation.at_start:
        loop.evaluate(0)
    if ending := loop.early_end.agreed():
        return ending
    last, done = time.perf_counter(), 0

    def report(step: int, logs: Mapping[str, float]) -> bool:
        nonlocal last, done
        now = time.perf_counter()
        metrics = {"loss": logs["loss"], "loss/dpo": logs["loss"], "step_time": now - last}
        last, done = now, step
        loop.report(step, metrics | {k: v for k, v in logs.items() if k not in ("loss", "epoch")}, ())
        return loop.early_end.agreed() is None

    train_on_pairs(
        loop.policy.model,
        plan.tokenizer,
        plan.template,
        plan.prompts,
        recipe.training,
        recipe.optim,
        beta=recipe.method_options["beta"],
        length=recipe.data.max_prompt_length + recipe.rollout.max_response_length,
        gradient_checkpointing=recipe.model.gradient_checkpointing,
        steps=steps,
        accelerator=loop.accelerator,
        report=report,
    )
    loop.policy.sync(loop.collect.collector.sampler)
    return loop.finish(done)
