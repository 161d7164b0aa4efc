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

from accelerate import Accelerator

from srft.data import Prompt
from srft.evaluation import summarise
from srft.objective import Need, Responses
from srft.policy import MicroBatch, cut
from srft.processes import gather
from srft.seed import derive_seed
from srft.training.display import Display
from srft.training.prompts import draw
from srft.training.responses import Collector, Response, Sampling, table
from srft.training.run_dir import RunDir
from srft.training.state import state_of
from srft.training.update import Before, Trained, Updater


@dataclass(frozen=True)
class Settings:
    """The loop's own numbers.

    Args:
        stage: its place among the run's stages; `done`: the steps of the stages before it.
        steps: batches of prompts in the stage.
        prompts_per_step: prompts of one batch, over all ranks.
        demonstrations: of each prompt.
        refill: rounds of further prompts for groups dropped because all or none of their rollouts are right; 0: none
            is dropped.
        updates_per_batch: optimizer updates on one batch, each on its share of the prompts.
        buffer: demonstrations of prompts whose rollouts all failed that make a supervised update of their own; 0: none.
        tokens_per_micro_batch: padded tokens of one forward pass.
        evaluate_every, checkpoint_every, show_every: steps; 0 for never in between.
        keep_checkpoints: how many to keep.
        save_rollouts: write every response with its score.
        seed: of the prompts' order.
    """

    stage: int
    done: int
    steps: int
    prompts_per_step: int
    demonstrations: int
    refill: int
    updates_per_batch: int
    buffer: int
    tokens_per_micro_batch: int
    evaluate_every: int
    evaluate_first: bool
    checkpoint_every: int
    show_every: int
    keep_checkpoints: int
    save_rollouts: bool
    seed: int


class Loop:
    """Everything that a stage's steps work with.

    Args:
        updater: policy, optimizer and method; `buffered`: the one of the buffer, where there is one.
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
        buffered: Updater | None,
        scheduler: Any,
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
        self.buffered, self.collector, self.prompts, self.evaluations = buffered, collector, prompts, evaluations
        self.needs, self.rollouts, self.tries, self.pad_token_id = needs, rollouts, tries, pad_token_id
        self.run, self.display = run, display
        self.interrupted = False
        self.cursor = 0  # prompts drawn so far
        self.waiting: list[int] = []  # places of the buffer's prompts, the newest first
        self.history: list[dict[str, Any]] = []  # the metrics of the stage's steps
        self._place = {id(prompt): i for i, prompt in enumerate(prompts)}

    def train(self, start: int = 0) -> bool:
        """Run the steps after `start`. Returns False when it was interrupted; then it saved and can be continued."""
        settings, durations = self.settings, []
        if start == settings.done == 0 and settings.evaluate_first:
            self.evaluate(0)
        with _interrupts(self):
            for step in range(start + 1, settings.steps + 1):
                began = time.perf_counter()
                metrics, responses = self.step(step)
                durations.append(time.perf_counter() - began)
                self.report(step, metrics, responses, fmean(durations[-10:]))
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
        began = time.perf_counter()
        needs = self._needs(step)
        prompts, responses = self.collect(step, needs)
        collected = time.perf_counter()

        parts = self.prepare(step, needs, responses)  # all before the first update: π_old is what sampled
        updates = [self.updater.update(*part) for part in parts]
        metrics = {key: fmean(u[key] for u in updates if key in u) for key in {k: 0 for u in updates for k in u}}
        if self.buffered:
            metrics |= self.learn_buffer(step, prompts, responses)
        self.scheduler.step()
        self.collector.sampler.update_weights()
        done = time.perf_counter()

        metrics |= self.count(responses)
        metrics |= {"seconds/collect": collected - began, "seconds/update": done - collected}
        return metrics, responses

    def collect(self, step: int, needs: frozenset[Need]) -> tuple[dict[int, Prompt], list[Response]]:
        """This rank's prompts by slot and their graded responses; groups that teach nothing are replaced from further
        prompts, for `refill` rounds."""
        settings, rank, ranks = self.settings, self.accelerator.process_index, self.accelerator.num_processes
        prompts: dict[int, Prompt] = {}
        kept: list[Response] = []
        slots: list[int] = []
        drawn = 0
        for _ in range(settings.refill + 1 if "rollouts" in needs else 1):
            count = settings.prompts_per_step - len(slots)
            walk = enumerate(draw(self.prompts, self.cursor, count, settings.seed), drawn)
            mine = list(walk)[rank::ranks]
            self.cursor, drawn = self.cursor + count, drawn + count
            with self.accelerator.autocast():
                found = self.collector.step(mine, needs, self.rollouts, settings.demonstrations, settings.done + step)
            if settings.refill and "rollouts" in needs:
                mixed = _mixed(found)
                mine, found = [(s, p) for s, p in mine if s in mixed], [r for r in found if r.slot in mixed]
            prompts |= dict(mine)
            kept += found
            slots += gather(self.accelerator, [slot for slot, _ in mine])
            if len(slots) == settings.prompts_per_step:
                break
        self._drawn = drawn
        place = {slot: i for i, slot in enumerate(sorted(slots))}
        return {place[s]: p for s, p in prompts.items()}, [replace(r, slot=place[r.slot]) for r in kept]

    def prepare(
        self, step: int, needs: frozenset[Need], responses: Sequence[Response]
    ) -> list[tuple[Responses, list[MicroBatch], list[Before]]]:
        """For each update on the batch: its table, this rank's micro-batches, and what their tokens are worth."""
        updates, prepared = self.settings.updates_per_batch, []
        share = self.settings.prompts_per_step / updates
        for i in range(updates):
            rows, batches = self._batches(step, [r for r in responses if int(r.slot / share) == i])
            if len(rows.length):  # none where refilling found too few groups
                rows, before = self.updater.look(rows, batches, needs, again=updates > 1)
                prepared.append((rows, batches, before))
        return prepared

    def learn_buffer(self, step: int, prompts: Mapping[int, Prompt], responses: Sequence[Response]) -> dict[str, float]:
        """Keep the demonstrations of prompts whose rollouts all failed; when there are enough, one update on them."""
        assert self.buffered is not None
        size, rank, ranks = self.settings.buffer, self.accelerator.process_index, self.accelerator.num_processes
        able = {r.slot for r in responses if not r.is_demo and r.grade.reward >= 1}
        failed = [(slot, self._place[id(p)]) for slot, p in prompts.items() if slot not in able]
        self.waiting = [place for _, place in sorted(gather(self.accelerator, failed))] + self.waiting
        if len(self.waiting) < size:
            return {"buffer/size": len(self.waiting)}
        chosen, self.waiting = list(enumerate(self.waiting[:size])), self.waiting[size:]
        mine = [(slot, self.prompts[place]) for slot, place in chosen[rank::ranks]]
        rows, batches = self._batches(step, self.collector.demonstrations(mine, self.settings.demonstrations))
        found = self.buffered.update(rows, batches, [{} for _ in batches])
        loss, norm = found["loss/total"], found["grad_norm"]
        return {"buffer/size": len(self.waiting), "buffer/loss": loss, "buffer/grad_norm": norm}

    def _batches(self, step: int, responses: Sequence[Response]) -> tuple[Responses, list[MicroBatch]]:
        limit = self.rollouts.max_response_length
        rows, pairs = table(responses, limit, step, lambda mine: gather(self.accelerator, mine))
        return rows, cut(pairs, self.settings.tokens_per_micro_batch, self.pad_token_id)

    def count(self, responses: Sequence[Response]) -> dict[str, float]:
        """Rewards, lengths and verdicts of the step over all ranks."""
        facts = [(r.is_demo, r.grade.reward, r.grade.verdict.value, len(r.token_ids), r.finished) for r in responses]
        everyone = gather(self.accelerator, facts)
        metrics: dict[str, float] = {"tokens": sum(length for *_, length, _ in everyone)}
        if self.settings.refill:
            metrics |= {"groups": len(set(gather(self.accelerator, [r.slot for r in responses])))}
            metrics |= {"groups_drawn": self._drawn}
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

    def report(self, step: int, metrics: dict[str, float], responses: Sequence[Response], duration: float) -> None:
        """Write a step's line and show it; a step takes about `duration` seconds."""
        number = self.settings.done + step
        row = {"step": number, "stage": self.settings.stage, "lr": self.updater.policy.optimizer.param_groups[0]["lr"]}
        row |= dict(sorted(metrics.items()))
        row["tokens_per_second"] = metrics.get("tokens", 0) / duration
        row["seconds_left"] = duration * (self.settings.steps - step)
        self.history.append(row)
        saved = gather(self.accelerator, [r.to_json() for r in responses]) if self.settings.save_rollouts else []
        self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=number)
        if self.accelerator.is_main_process:
            self.run.append("metrics.jsonl", row)
            if self.settings.save_rollouts:
                self.run.save_rollouts(number, saved)
            self.display.step(row)
            if self.settings.show_every and step % self.settings.show_every == 0:
                self.display.samples(responses)

    def evaluate(self, step: int) -> None:
        """Sample every evaluation set and write its scores."""
        rank, ranks, rows = self.accelerator.process_index, self.accelerator.num_processes, []
        number = self.settings.done + step
        for name, prompts in self.evaluations.items():
            began = time.perf_counter()
            mine = list(enumerate(prompts))[rank::ranks]
            with self.accelerator.autocast():
                responses = self.collector.rollouts(mine, self.tries, f"evaluation {name}")
            scores = summarise(gather(self.accelerator, responses), self.tries.n)
            rows.append({"step": number, "set": name, **scores, "seconds": time.perf_counter() - began})
            self.accelerator.log({f"evaluation/{name}/{k}": v for k, v in scores.items()}, step=number)
        if self.accelerator.is_main_process:
            for row in rows:
                self.run.append("evaluations.jsonl", row)
            self.display.evaluation(rows)

    def save(self, step: int) -> None:
        """Save a checkpoint that transformers loads and `--resume` continues from."""
        if self.accelerator.is_main_process:
            model = self.accelerator.unwrap_model(self.updater.policy.network).model
            number, keep = self.settings.done + step, self.settings.keep_checkpoints
            self.run.save_checkpoint(number, model, self.collector.tokenizer, state_of(self, step), keep)
        self.accelerator.wait_for_everyone()

    def trained(self) -> dict[str, Trained]:
        """Everything with an optimizer, by name."""
        found = {"policy": self.updater.policy, **self.updater.beside}
        return found | ({"buffer": self.buffered.policy} if self.buffered else {})

    def _needs(self, step: int) -> frozenset[Need]:
        """What this step needs: the method's needs, unless it chooses among them step by step."""
        choose = self.updater.method.chooses
        if choose is None:
            return self.needs
        chance = derive_seed(self.settings.seed, "choice", self.settings.done + step) / 2**63
        return choose(self.updater.options, step, self.history, chance)


def _mixed(responses: Sequence[Response]) -> set[int]:
    """The slots of which some rollouts are right and some are wrong."""
    right = {r.slot for r in responses if not r.is_demo and r.grade.reward >= 1}
    return right & {r.slot for r in responses if not r.is_demo and r.grade.reward < 1}


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
