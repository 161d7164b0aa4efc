"""The loop: draw prompts, collect graded responses, update the policy, report. It names no method: what a method needs
it says itself, and what it computes is in `srft.objective`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator

from srft.data import Prompt
from srft.evaluation import summarise
from srft.objective import Need
from srft.policy import cut
from srft.training.display import Display
from srft.training.responses import Collector, Response, Sampling, step_prompts, table
from srft.training.run_dir import RunDir
from srft.training.update import Before, Updater, gather, look, response_entropy


@dataclass(frozen=True)
class Settings:
    """The loop's own numbers.

    Args:
        steps: batches of prompts in the run.
        prompts_per_step: prompts of one batch, over all ranks.
        demonstrations: of each prompt.
        updates_per_batch: optimizer updates on one batch, each on its share of the prompts.
        tokens_per_micro_batch: padded tokens of one forward pass.
        evaluate_every, checkpoint_every, show_every: steps; 0 for never in between.
        keep_checkpoints: how many to keep.
        save_rollouts: write every response with its score.
        seed: of the prompts' order.
    """

    steps: int
    prompts_per_step: int
    demonstrations: int
    updates_per_batch: int
    tokens_per_micro_batch: int
    evaluate_every: int
    evaluate_first: bool
    checkpoint_every: int
    show_every: int
    keep_checkpoints: int
    save_rollouts: bool
    seed: int


class Loop:
    """Everything that a run's steps work with.

    Args:
        updater: policy, optimizer and method.
        reference: the frozen reference policy, where the method needs one.
        prompts: to train on; `evaluations`: by set name.
        needs: what the method says it needs.
        rollouts: how training rollouts are sampled; `tries`: how evaluations are.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        accelerator: Accelerator,
        updater: Updater,
        scheduler: Any,
        reference: Any | None,
        collector: Collector,
        prompts: Sequence[Prompt],
        evaluations: Mapping[str, Sequence[Prompt]],
        needs: frozenset[Need],
        rollouts: Sampling,
        tries: Sampling,
        pad_token_id: int,
        run: RunDir,
        display: Display,
    ) -> None:
        self.settings, self.accelerator, self.updater, self.scheduler = settings, accelerator, updater, scheduler
        self.reference, self.collector, self.prompts, self.evaluations = reference, collector, prompts, evaluations
        self.needs, self.rollouts, self.tries, self.pad_token_id = needs, rollouts, tries, pad_token_id
        self.run, self.display = run, display
        self.interrupted = False

    def train(self, start: int = 0) -> bool:
        """Run the steps after `start`. Returns False when it was interrupted; then it saved and can be continued."""
        settings, durations = self.settings, []
        if start == 0 and settings.evaluate_first:
            self.evaluate(0)
        with _interrupts(self):
            for step in range(start + 1, settings.steps + 1):
                began = time.perf_counter()
                metrics, responses = self.step(step)
                durations.append(time.perf_counter() - began)
                self.report(step, metrics, responses, durations)
                stop = any(gather(self.accelerator, [self.interrupted]))
                last = step == settings.steps
                if last or stop or (settings.checkpoint_every and step % settings.checkpoint_every == 0):
                    self.save(step)
                if stop and not last:
                    return False
                if last or (settings.evaluate_every and step % settings.evaluate_every == 0):
                    self.evaluate(step)
        return True

    def step(self, step: int) -> tuple[dict[str, float], list[Response]]:
        """Collect a step's responses and update on them. Returns the metrics and this rank's responses."""
        settings, rank, ranks = self.settings, self.accelerator.process_index, self.accelerator.num_processes
        began = time.perf_counter()
        prompts = step_prompts(self.prompts, settings.prompts_per_step, step - 1, settings.seed)[rank::ranks]
        with self.accelerator.autocast():
            responses = self.collector.step(prompts, self.needs, self.rollouts, settings.demonstrations, step)
        collected = time.perf_counter()

        share = settings.prompts_per_step / settings.updates_per_batch
        parts = [[r for r in responses if int(r.slot / share) == i] for i in range(settings.updates_per_batch)]
        prepared = [self.prepare(part) for part in parts]  # all before the first update: π_old is what sampled
        updates = [self.updater.update(*part) for part in prepared]
        self.scheduler.step()
        self.collector.sampler.update_weights()
        done = time.perf_counter()

        metrics = {key: fmean(u[key] for u in updates if key in u) for key in {k: 0 for u in updates for k in u}}
        metrics |= self.count(responses)
        metrics |= {"seconds/collect": collected - began, "seconds/update": done - collected}
        return metrics, responses

    def prepare(self, responses: Sequence[Response]) -> tuple[Any, Any, Any]:
        """The step's table, this rank's micro-batches, and what their tokens were worth before the update."""
        step, pairs = table(responses, self.rollouts.max_response_length, lambda mine: gather(self.accelerator, mine))
        batches = cut(pairs, self.settings.tokens_per_micro_batch, self.pad_token_id)
        before = [Before() for _ in batches]
        # With one update on a batch π_old is the policy itself, and looking would only repeat the forward pass.
        old = "old_logp" in self.needs and self.settings.updates_per_batch > 1
        if old or "step_entropy" in self.needs:
            looks = look(self.updater.policy, batches, self.accelerator)
            if old:
                before = [replace(b, logp=logp) for b, (logp, _) in zip(before, looks, strict=True)]
            entropy = response_entropy(looks, batches, len(step.length)).to(self.accelerator.device)
            step = replace(step, entropy=self.accelerator.reduce(entropy, "sum").cpu())
        if self.reference is not None:
            looks = look(self.reference, batches, self.accelerator)
            before = [replace(b, ref_logp=logp) for b, (logp, _) in zip(before, looks, strict=True)]
        return step, batches, before

    def count(self, responses: Sequence[Response]) -> dict[str, float]:
        """Rewards, lengths and verdicts of the step over all ranks."""
        facts = [(r.is_demo, r.grade.score, r.grade.verdict.value, len(r.token_ids), r.finished) for r in responses]
        everyone = gather(self.accelerator, facts)
        metrics: dict[str, float] = {"tokens": sum(length for *_, length, _ in everyone)}
        if rollouts := [fact for fact in everyone if not fact[0]]:
            metrics |= {
                "reward": fmean(score for _, score, *_ in rollouts),
                "response_length": fmean(length for *_, length, _ in rollouts),
                "unfinished": fmean(not finished for *_, finished in rollouts),
                **{f"verdict/{v}": fmean(x[2] == v for x in rollouts) for v in ("unparsable", "timeout")},
            }
        if demos := [fact for fact in everyone if fact[0]]:
            metrics |= {
                "demo_reward": fmean(score for _, score, *_ in demos),
                "demo_length": fmean(length for *_, length, _ in demos),
            }
        return metrics

    def report(
        self, step: int, metrics: dict[str, float], responses: Sequence[Response], durations: Sequence[float]
    ) -> None:
        """Write a step's line and show it."""
        recent = fmean(durations[-10:])
        row = {"step": step, "lr": self.updater.optimizer.param_groups[0]["lr"], **dict(sorted(metrics.items()))}
        row["tokens_per_second"] = metrics["tokens"] / durations[-1]
        row["seconds_left"] = recent * (self.settings.steps - step)
        saved = gather(self.accelerator, [r.to_json() for r in responses]) if self.settings.save_rollouts else []
        self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=step)
        if self.accelerator.is_main_process:
            self.run.append("metrics.jsonl", row)
            if self.settings.save_rollouts:
                self.run.save_rollouts(step, saved)
            self.display.step(row)
            if self.settings.show_every and step % self.settings.show_every == 0:
                self.display.samples(responses)

    def evaluate(self, step: int) -> None:
        """Sample every evaluation set and write its scores."""
        rank, ranks, rows = self.accelerator.process_index, self.accelerator.num_processes, []
        for name, prompts in self.evaluations.items():
            began = time.perf_counter()
            mine = list(enumerate(prompts))[rank::ranks]
            with self.accelerator.autocast():
                responses = self.collector.rollouts(mine, self.tries, f"evaluation {name}")
            scores = summarise(gather(self.accelerator, responses), self.tries.n)
            rows.append({"step": step, "set": name, **scores, "seconds": time.perf_counter() - began})
            self.accelerator.log({f"evaluation/{name}/{k}": v for k, v in scores.items()}, step=step)
        if self.accelerator.is_main_process:
            for row in rows:
                self.run.append("evaluations.jsonl", row)
            self.display.evaluation(rows)

    def save(self, step: int) -> None:
        """Save a checkpoint that transformers loads and `--resume` continues from."""
        state = {
            "step": step,
            "optimizer": self.updater.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "skipped": self.updater.skipped,
        }
        if self.accelerator.is_main_process:
            model = self.accelerator.unwrap_model(self.updater.policy).model
            self.run.save_checkpoint(step, model, self.collector.tokenizer, state, self.settings.keep_checkpoints)
        self.accelerator.wait_for_everyone()


@contextmanager
def _interrupts(loop: Loop) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) ends the run after its present step; a second one at once."""

    def note(signum: int, frame: Any) -> None:
        if loop.interrupted:
            raise KeyboardInterrupt
        loop.interrupted = True
        if loop.accelerator.is_main_process:  # not by Rich: the signal may have come in the middle of its writing
            os.write(2, b"\nFinishing this step, then saving. Once more to stop without saving.\n")

    try:
        previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, where Python handles no signals
        previous = {}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def load_trainer_state(checkpoint: Any) -> dict[str, Any]:
    """The optimizer, schedule and step of a checkpoint."""
    return torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
