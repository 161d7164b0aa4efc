"""The loop: collect a step's graded responses, update the policy on them, report. It names no method: what a method
needs it says itself, what it computes is in `srft.objective`, and what it alone needs of the loop is a hook."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator

from srft.evaluation.evaluator import Evaluator
from srft.objective.registry import Need
from srft.processes import first, gather
from srft.rollout.response import Response
from srft.seed import derive_seed
from srft.training.batches import Batcher
from srft.training.best import keep_best
from srft.training.clock import Clock
from srft.training.collect import StepCollector
from srft.training.disk import Disk
from srft.training.display import Display
from srft.training.ending import EarlyEnd, Ending, Listener
from srft.training.finite import check_before_saving, check_updates
from srft.training.hooks import Hook
from srft.training.metrics import response_metrics
from srft.training.run_dir import WARNINGS, RunDir
from srft.training.saving import Contents, Saver
from srft.training.settings import LoggingSettings, TrainingEvaluation, TrainingSettings
from srft.training.signals import stop_on_signals
from srft.training.stage_state import StageState
from srft.training.update import Updater
from srft.training.warnings import TrainingWarning, mark


@dataclass(frozen=True)
class StageSpan:
    """A stage's place in the run.

    Args:
        stage: from 1.
        first_step: steps of the stages before it.
        steps: of this one.
    """

    stage: int
    first_step: int
    steps: int


class Loop:
    """Everything that a stage's steps work with.

    Args:
        training, evaluation, logging: sections of the recipe.
        updates_per_batch: optimizer updates on the responses of one step.
        needs: what the method says it needs.
        updater: policy, optimizer and method, with the `scheduler` of the learning rate.
        inference: what samples and scores: the policy itself, or a copy of it.
        collect: draws a step's prompts and collects the responses.
        evaluator: of the evaluation's benchmarks.
        callbacks: the user's.
        warnings: known before the first step.
    """

    def __init__(
        self,
        span: StageSpan,
        training: TrainingSettings,
        evaluation: TrainingEvaluation,
        logging: LoggingSettings,
        *,
        updates_per_batch: int,
        needs: frozenset[Need],
        accelerator: Accelerator,
        updater: Updater,
        inference: Any,
        scheduler: Any,
        collect: StepCollector,
        batcher: Batcher,
        hooks: Sequence[Hook],
        evaluator: Evaluator,
        run_dir: RunDir,
        display: Display,
        callbacks: Listener,
        warnings: Sequence[TrainingWarning] = (),
    ) -> None:
        self.span, self.training, self.evaluation, self.logging = span, training, evaluation, logging
        self.updates_per_batch, self.needs, self.accelerator = updates_per_batch, needs, accelerator
        self.updater, self.inference, self.scheduler = updater, inference, scheduler
        self.collect, self.batcher = collect, batcher
        self.hooks, self.evaluator, self.run_dir, self.display = hooks, evaluator, run_dir, display
        self.warnings = warnings
        self.callbacks, self.early_end = callbacks, EarlyEnd(accelerator)
        self.state = StageState(accelerator, collect.stream, updater, scheduler, hooks)
        ending = self.early_end.agreed
        self.disk = Disk(run_dir.path, training.disk_full, say=display.say, ending=lambda: ending() is not None)
        self.saver = Saver(run_dir, accelerator, self.disk, training.keep_checkpoints)
        self.history: list[dict[str, Any]] = []  # the metrics of the stage's steps
        self._saved, self._saved_at = 0, time.monotonic()  # the last checkpoint: its step of the stage, and when
        self._evaluation_seconds = 0.0  # of the last one

    def train(self, start: int = 0) -> Ending:
        """Run the steps after `start`. A stage that ends early has saved, and can be continued."""
        if start == 0 and self.warnings and self.accelerator.is_main_process:
            self.run_dir.append(WARNINGS, *(one.row(self.span.first_step + 1) for one in self.warnings))
            self._show(self.warnings)
        if start == self.span.first_step == 0 and self.evaluation.at_start:
            self.evaluate(0)
        elif start > 0:  # the run may have been stopped between the checkpoint and what follows it
            if self._lacks_evaluation(start):
                self.evaluate(start)
            self.keep_best(start)
        ending = self.early_end.agreed() or (None if start < self.span.steps else "finished")
        try:
            with stop_on_signals(announce=self.accelerator.is_main_process) as self.early_end.interruption:
                while ending is None:
                    start += 1
                    self.step(start)
                    ending = self.finish(start)
        finally:
            self.saver.join()
        return ending

    def step(self, step: int) -> None:
        """One step of the stage: the whole cycle."""
        clock = Clock()
        needs = self.needs_of(step)
        number = self.span.first_step + step
        # Of dropout: the same in a run that is resumed before this step.
        torch.manual_seed(derive_seed(self.training.seed, "step", number, self.accelerator.process_index))
        self.display.begin("sampling", number, self.collect.rollouts if "rollouts" in needs else 0)
        collected = self.collect(step, needs)
        clock.lap("seconds/collect")
        batches = self.batcher.split(collected.responses, step, self.training.prompts_per_step, self.updates_per_batch)
        self.display.begin("updating", number, sum(len(batch.micro_batches) for batch in batches))
        metrics = self.updater.update_all(self.updater.prepare(batches, needs))
        metrics |= response_metrics(collected.responses, self.accelerator)
        for hook in self.hooks:
            metrics |= hook.after_update(step, collected, metrics)
        metrics["learning_rate"] = self.updater.policy.optimizer.param_groups[0]["lr"]  # before the scheduler's step
        self.scheduler.step()
        self.sync()
        clock.lap("seconds/update")
        self.report(step, metrics | clock.seconds, collected.responses)
        check_updates(self.updater.skipped_in_a_row, number, self.span.steps, self.run_dir)

    @property
    def policy(self) -> Any:
        """The policy, without what accelerate wrapped around it."""
        return self.accelerator.unwrap_model(self.updater.policy.network)

    def sync(self) -> None:
        """Hand the present weights to what samples and scores."""
        if self.inference is not self.policy:
            self.policy.sync(self.inference)
        self.inference.sync(self.collect.collector.sampler)

    def needs_of(self, step: int) -> frozenset[Need]:
        """What this step collects: the method's needs, unless a hook chooses among them."""
        needs = self.needs
        for hook in self.hooks:
            needs = hook.needs(step, needs, self.history)
        return needs

    def _show(self, warnings: Sequence[TrainingWarning]) -> None:
        for warning in warnings:
            self.display.warn(warning.name, warning.text, warning.advice)

    def report(self, step: int, metrics: Mapping[str, float], responses: Sequence[Response]) -> None:
        """Write a step's row and show it."""
        number = self.span.first_step + step
        pace = fmean([*(row["step_time"] for row in self.history[-9:]), metrics["step_time"]])
        row = {"step": number, "stage": self.span.stage, **dict(sorted(metrics.items()))}
        row["tokens_per_second"] = metrics.get("tokens", 0) / metrics["step_time"]
        evaluations = sum(self._is_evaluated(s) for s in range(step, self.span.steps + 1))
        row["steps_left"] = self.span.steps - step
        row["seconds_left"] = pace * (self.span.steps - step) + self._evaluation_seconds * evaluations
        begun = mark(row, self.history)
        self.history.append(row)
        saved = gather(self.accelerator, [r.to_json() for r in responses]) if self.logging.rollouts else []
        self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=number)

        writes: list[Callable[[], None]] = [partial(self.run_dir.append, "metrics.jsonl", row)]
        if self.logging.rollouts:
            writes.append(partial(self.run_dir.save_rollouts, number, saved))
        if begun:
            writes.append(partial(self.run_dir.append, WARNINGS, *(one.row(number) for one in begun)))

        def write() -> None:
            while writes:  # one that fails is tried again
                writes[0]()
                del writes[0]

        self.disk.write(f"step {number}", lambda: first(self.accelerator, write))
        if self.accelerator.is_main_process:
            self.display.step(row)
            self._show(begun)
            if self.logging.samples_every and step % self.logging.samples_every == 0:
                self.display.samples(responses)
            self.early_end.call(lambda: self.callbacks.step(row))

    def evaluate(self, step: int) -> None:
        """Evaluate every benchmark and write its scores, where they are not written yet."""
        if not self.evaluator.tasks:
            return
        number = self.span.first_step + step
        began = time.perf_counter()
        self.display.begin("evaluating", number, self.evaluator.samples)
        results = self.disk.write("an evaluation", lambda: self.evaluator.run(self.run_dir.evaluation(number)))
        self._evaluation_seconds = seconds = time.perf_counter() - began
        missing = self._missing_scores(number)
        rows = [{"step": number, "benchmark": name, **results[name], "seconds": seconds} for name in missing]
        write = partial(self.run_dir.append, "evaluations.jsonl", *rows)
        self.disk.write("an evaluation", lambda: first(self.accelerator, write))
        for row in rows:
            numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and k != "step"}
            self.accelerator.log({f"evaluation/{row['benchmark']}/{k}": v for k, v in numbers.items()}, step=number)
        if self.accelerator.is_main_process:
            self.display.evaluation(rows)
            self.early_end.call(lambda: self.callbacks.evaluation(rows))

    def save(self, step: int, *, behind: bool = False) -> None:
        """Save a checkpoint that transformers loads and `--resume` continues from, on any number of processes.

        Args:
            behind: it may be written while the run goes on; else it is there when this returns.
        """
        if self._saved != step:
            trained = [part.network for part in (self.updater.policy, *self.updater.auxiliary.values())]
            number, unwrap = self.span.first_step + step, self.accelerator.unwrap_model
            check_before_saving([unwrap(network) for network in trained], number, self.accelerator, self.run_dir)
            state = {"stage": self.span.stage, "first_step": self.span.first_step, "step": step, **self.state.values()}
            tokenizer = self.collect.collector.tokenizer
            contents = Contents(number, self.policy, tokenizer, state, self.state.tensors())
            self.saver.save(contents, behind=behind and self.training.checkpoint_async)
            self._saved, self._saved_at = step, time.monotonic()
        elif not behind:
            self.saver.wait()

    def keep_best(self, step: int) -> None:
        """Save a checkpoint of the step, where it has none yet, and keep it, where it is the best so far."""
        keep_best(self.run_dir, self.training, self.span.first_step + step, self.accelerator, lambda: self.save(step))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the run's newest checkpoint, whose `state` this is; the policy has its weights already."""
        self.state.restore(state, self.run_dir.checkpoint)
        last = state["first_step"] + state["step"]
        self.history = [row for row in self.run_dir.metrics if row["stage"] == self.span.stage and row["step"] <= last]
        self._saved = state["step"]

    def finish(self, step: int) -> Ending | None:
        """Save and evaluate what is due after a step. Returns how the stage ends here, None where it goes on."""
        self.saver.check()
        last, ending = step == self.span.steps, self.early_end.agreed()
        if ending or last or self._checkpoint_is_due(step):
            self.save(step, behind=not (ending or last))
        if ending == "failed" or (ending == "interrupted" and not last):
            return ending
        evaluates = ending == "stopped" or self._is_evaluated(step)
        if evaluates:
            self.evaluate(step)
            ending = self.early_end.agreed()
            if ending:
                self.save(step)
        if evaluates or self._saved == step:
            self.keep_best(step)
        return "finished" if last and ending in (None, "interrupted") else ending

    def _checkpoint_is_due(self, step: int) -> bool:
        if self.updater.skipped_in_a_row:  # the weights may be why
            return False
        minutes = gather(self.accelerator, [(time.monotonic() - self._saved_at) / 60])[0]  # the first process's clock
        in_time = 0 < self.training.checkpoint_minutes <= minutes
        return in_time or _is_due(step, self.training.checkpoint_every)

    def _is_evaluated(self, step: int) -> bool:
        return bool(self.evaluator.tasks) and (step == self.span.steps or _is_due(step, self.evaluation.every))

    def _lacks_evaluation(self, step: int) -> bool:
        """An evaluation is due after the step, and not written to its end."""
        return self._is_evaluated(step) and bool(self._missing_scores(self.span.first_step + step))

    def _missing_scores(self, number: int) -> list[str]:
        """The evaluated sets that have no scores of a step of the run yet, on every process the same."""
        written = {row["benchmark"] for row in self.run_dir.evaluations if row["step"] == number}
        missing = [task.name for task in self.evaluator.tasks if task.name not in written]
        return gather(self.accelerator, [missing])[0]


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
