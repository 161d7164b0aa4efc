"""What `against_trl.py` gives its contenders and gets from them, and the first of them: srft's own loop. Each is a
process that makes a step when it is told to, and has its own high-water mark of memory."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from srft.data.tokenize import Prompt
from srft.recipe.load import load_recipe
from srft.recipe.schema import Recipe
from srft.rollout.response import Group, Response
from srft.training.loop import Loop
from srft.verify.grade import Verdict

ALONE = ["evaluation.at_start=false", "evaluation.sets={}", "evaluation.benchmarks=[]", "logging.rollouts=false"]


@dataclass(frozen=True)
class Work:
    """What every contender is given.

    Args:
        recipe: model, data, lengths, precision, optimizer; the method is GRPO, or SFT for the task "sft".
        overrides: of the recipe.
        task: "grpo" or "sft".
        threads: of torch.
        clock: what a step is timed by: "wall", or "cpu", the process's CPU time, for a machine that is busy (with one
            thread: threads that wait for each other burn it too).
    """

    recipe: str
    overrides: Sequence[str]
    task: str
    threads: int
    clock: str = "wall"

    def now(self) -> float:
        """Seconds, from an arbitrary beginning."""
        return time.process_time() if self.clock == "cpu" else time.perf_counter()

    def load(self, also: Sequence[str] = ()) -> Recipe:
        """The recipe that is run."""
        return load_recipe(self.recipe, [*self.overrides, f"method={{name: {self.task}}}", *ALONE, *also])


@dataclass(frozen=True)
class Step:
    """What a contender says of a step.

    Args:
        sampling, training: seconds; sampling is with grading.
        tokens: sampled, or of demonstrations.
        loss: of the step.
        sketch: (norm, random projection) of each parameter's clipped gradient, where it was asked for.
        rollouts: token ids, a group's together.
        peak: high-water mark of memory (MiB), the GPU's where there is one, else the process's.
        loaded: what it was before the first step.
    """

    sampling: float
    training: float
    tokens: int
    loss: float
    sketch: Sequence[tuple[float, float]] = ()
    rollouts: Sequence[Sequence[int]] = ()
    peak: float = 0.0
    loaded: float = 0.0


def prepare(work: Work) -> None:
    """Threads, and silence."""
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(work.threads)


def peak_memory() -> float:
    """MiB, since the process began: allocated on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()  # getrusage's would begin at that of the process that started it
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def reward_of(ids: Sequence[int]) -> float:
    """What the update takes for a rollout's reward, so that no group is without signal, however weak the model."""
    return float(sum(ids) % 2)


def sketch(parameters: Sequence[Tensor]) -> list[tuple[float, float]]:
    """(norm, projection on a fixed random direction) of each gradient: the mean square of the difference of two
    projections is that of the gradients, without sending these."""
    generator, values = torch.Generator().manual_seed(0), []
    for p in parameters:
        grad = torch.zeros(p.numel()) if p.grad is None else p.grad.detach().float().flatten().cpu()
        direction = torch.randn(len(grad), generator=generator)
        values.append((float(grad.norm()), float(grad.double() @ direction.double())))
    return values


def ours(pipe: Connection, work: Work, overrides: Sequence[str]) -> None:
    """srft: the loop that `srft train` makes of the recipe, its parts called by command."""
    from srft.run.train import train

    prepare(work)

    def serve(loop: Loop, start: int = 0) -> bool:
        commands, loaded = _OurCommands(loop, work.now), peak_memory()
        while (command := pipe.recv()) is not None:
            name, *arguments = command
            pipe.send(getattr(commands, name)(*arguments, loaded=loaded))
        return True

    Loop.train = serve  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        train(work.load(overrides), folder)


class _OurCommands:
    def __init__(self, loop: Loop, now: Callable[[], float]) -> None:
        self.now, self.loop, self.optimizer = now, loop, loop.updater.policy.optimizer
        self.sketch: list[tuple[float, float]] = []
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        inner.register_step_pre_hook(self._look)
        self.looks = True

    def _look(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self.looks:
            self.sketch = sketch([p for group in optimizer.param_groups for p in group["params"]])
        self.looks = False

    def prompts(self, count: int, loaded: float) -> list[Prompt]:
        """The next of the run."""
        return self.loop.collect.stream.draw(count)

    def sample(self, prompts: Sequence[Prompt], step: int, loaded: float) -> Step:
        """Rollouts and their grades."""
        began = self.now()
        responses = self._collect(prompts, step)
        seconds = self.now() - began
        rollouts = [list(r.token_ids) for r in responses]
        return Step(seconds, 0.0, sum(map(len, rollouts)), 0.0, rollouts=rollouts)

    def train(self, prompts: Sequence[Prompt], rollouts: Sequence[Sequence[int]], step: int, loaded: float) -> Step:
        """An update on the rollouts given, or without any on the prompts' demonstrations."""
        n = max(len(rollouts) // len(prompts), 1)
        given = [
            Response(
                i // n, prompts[i // n], ids, is_demo=False, truncated=False, text="", reward=reward_of(ids),
                verdict=Verdict.RIGHT if reward_of(ids) else Verdict.WRONG,
            )
            for i, ids in enumerate(rollouts)
        ]  # fmt: skip
        began = self.now()
        responses = given or self._collect(prompts, step)
        loop = self.loop
        batches = loop.batcher.split(responses, step, len(prompts), loop.updates_per_batch)
        metrics = loop.updater.update_all(loop.updater.prepare(batches, loop.needs))
        loop.policy.sync(loop.collect.collector.sampler)
        seconds, tokens = self.now() - began, sum(len(r.token_ids) for r in responses)
        return Step(0.0, seconds, tokens, metrics["loss"], self.sketch, peak=peak_memory(), loaded=loaded)

    def _collect(self, prompts: Sequence[Prompt], step: int) -> list[Response]:
        loop, collect = self.loop, self.loop.collect
        groups = [Group(i, prompt) for i, prompt in enumerate(prompts)]
        with loop.accelerator.autocast():
            return collect.collector.collect(groups, loop.needs, collect.sampling, collect.demonstrations, step)
