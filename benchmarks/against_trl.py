"""A step of srft and of TRL's trainers side by side: the same model, prompts, lengths, optimizer and loss.

    python benchmarks/against_trl.py quickstart                                  # GRPO on the embedded model
    python benchmarks/against_trl.py quickstart --task sft --trl padding_free=true
    python benchmarks/against_trl.py gsm8k-smollm2 training.precision=bf16 --rounds 3

Each contender is a process of its own; they take turns within a round, and the turns change from round to round. All
are trained on the same rollouts, TRL's; the first round warms up, and there the gradients of the two are compared.
`--ours` and `--trl` take comma-separated settings (of the recipe, of TRL's config) and may be given several times.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from contenders import Step, Work, ours
from contenders_trl import trl

from srft.policy.placement import pick_device, pick_precision
from srft.recipe.catalog import parse_yaml

TOLERANCE = {"fp32": 2e-3, "bf16": 5e-2}  # of gradients; TRL divides by the deviation + 1e-4, srft by it + 1e-6


class Contender:
    """A process that makes steps.

    Args:
        run: what it runs, with its arguments after the pipe.
    """

    def __init__(self, name: str, run: Callable[..., None], *arguments: Any) -> None:
        self.name, self.steps = name, list[Step]()
        self.pipe: Connection
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=run, args=(other, *arguments))
        self.process.start()
        other.close()

    def __call__(self, *command: Any) -> Any:
        self.pipe.send(command)
        return self.pipe.recv()

    def close(self) -> None:
        """Wait for its end."""
        if self.name.startswith("srft"):
            with suppress(OSError):  # it ended by an error of its own, which it has printed
                self.pipe.send(None)
        self.process.join(20)
        self.process.kill()


def difference(one: Step, two: Step) -> float:
    """‖g − g'‖ / ‖g'‖ of two gradients, estimated from their random projections."""
    squares = sum((a - b) ** 2 for (_, a), (_, b) in zip(one.sketch, two.sketch, strict=True))
    return float((squares / sum(norm**2 for norm, _ in two.sketch)) ** 0.5)


def run_round(number: int, batch: Sequence[Any], task: str, contenders: Sequence[Contender]) -> None:
    """One step of each."""
    mine = [c for c in contenders if c.name.startswith("srft")]
    others = [c for c in contenders if c not in mine]
    sampled: dict[str, Step] = {}

    def sample() -> None:
        for c in mine if task == "grpo" else ():
            sampled[c.name] = c("sample", batch, number)

    if number % 2 == 0:
        sample()
    for c in others[:: 1 if number % 4 < 2 else -1]:
        c.steps.append(c("step"))
    if number % 2:
        sample()
    rollouts = others[0].steps[-1].rollouts
    for c in mine:
        step = c("train", batch, rollouts, number)
        drawn = sampled.get(c.name)
        values = {} if drawn is None else {"sampling": drawn.sampling, "tokens": drawn.tokens}
        c.steps.append(Step(**{**vars(step), **values}))


def check(one: Contender, two: Contender, precision: str) -> str:
    """Whether both have the same loss and gradient on the same responses."""
    a, b = one.steps[0], two.steps[0]
    apart = difference(a, b)
    line = f"loss {a.loss:.6f} and {b.loss:.6f}, gradients {apart:.1e} apart"
    if apart > TOLERANCE[precision] or abs(a.loss - b.loss) > TOLERANCE[precision] * max(abs(b.loss), 1e-2):
        raise SystemExit(f"{one.name} and {two.name} do not compute the same: {line}")
    return f"{one.name} and {two.name} on the same responses: {line}"


def table(contenders: Sequence[Contender], base: Contender) -> str:
    """Markdown: medians over the rounds, and how many times as fast as `base`."""
    lines = [
        "| contender | sampling (tokens/s) | training (s) | step (s) | sampling × | training × | step × | peak (MiB) |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def values(c: Contender) -> list[float]:
        speed = median(s.tokens / s.sampling if s.sampling else 0.0 for s in c.steps[1:])
        training = median(s.training for s in c.steps[1:])
        # At the same number of tokens: what they drew differs in length.
        tokens = median(s.tokens for s in base.steps[1:])
        return [speed, training, training + (tokens / speed if speed else 0.0)]

    reference = values(base)
    for c in contenders:
        speed, training, step = values(c)
        times = [speed / reference[0] if speed else None, reference[1] / training, reference[2] / step]
        shown = ["" if x is None else f"{x:.2f}" for x in times]
        peak = c.steps[-1].peak
        sampling = f"{speed:.0f}" if speed else ""
        lines.append(
            f"| {c.name} | {sampling} | {training:.2f} | {step:.2f} | {' | '.join(shown)} | "
            f"{peak:.0f} ({peak / base.steps[-1].peak:.2f}) |"
        )
    return "\n".join(lines)


def settings(text: str) -> list[str]:
    """The parts of `a=1,b=2`."""
    return [part for part in text.split(",") if part]


def compare(work: Work, mine: Sequence[str], theirs: Sequence[str], rounds: int) -> tuple[str, list[Contender]]:
    """Let srft with each of the settings `mine` and TRL with each of `theirs` make `rounds` steps in turn.

    Returns:
        What the first of each have in common, and the contenders with their steps, of which the first warmed up.
    """
    recipe, contenders = work.load(), list[Contender]()
    per_step, precision = recipe.training.prompts_per_step, pick_precision(recipe.training.precision, pick_device())
    try:
        contenders = [Contender(f"srft {text}".strip(), ours, work, settings(text)) for text in mine]
        prompts = contenders[0]("prompts", per_step * (rounds + 1))
        for text in theirs:
            options = {key: parse_yaml(value) for key, _, value in (part.partition("=") for part in settings(text))}
            contenders.append(Contender(f"TRL {text}".strip(), trl, work, options, prompts))
        for number in range(rounds + 1):
            run_round(number, prompts[number * per_step : (number + 1) * per_step], work.task, contenders)
            if number == 0:
                same = check(contenders[0], contenders[len(mine)], precision)
    finally:
        for c in contenders:
            c.close()
    return same, contenders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="its model, data, lengths, precision and optimizer")
    parser.add_argument("overrides", nargs="*", help="section.key=value, of the recipe")
    parser.add_argument("--task", choices=["grpo", "sft"], default="grpo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: on a busy machine, --threads 1")
    parser.add_argument("--ours", action="append", default=[], help="settings of the recipe for srft alone")
    parser.add_argument("--trl", action="append", default=[], help="settings of TRL's config")
    a = parser.parse_intermixed_args()
    work = Work(a.recipe, ["optim.lr=1e-6", *a.overrides], a.task, a.threads, a.clock)
    same, contenders = compare(work, a.ours or [""], a.trl or [""], a.rounds)
    print(same)
    print(f"{a.recipe} {' '.join(a.overrides)}: {a.task}, {a.threads} threads, {a.clock} time, {a.rounds} rounds\n")
    print(table(contenders, next(c for c in contenders if c.name.startswith("TRL"))))


if __name__ == "__main__":
    main()
