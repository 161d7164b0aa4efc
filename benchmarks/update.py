"""Seconds and memory of one optimizer update, in variants that take turns in one process, on the same random responses.

Run: python benchmarks/update.py --model srft:model --method srft --tokens 2048 --repeats 5
"""

from __future__ import annotations

import argparse
import ctypes
import random
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator

from srft.data.problem import Problem
from srft.data.tokenize import Prompt
from srft.objective import get_method
from srft.policy import forward
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, load_model
from srft.rollout.response import Response
from srft.training.batches import Batcher
from srft.training.update import TrainedNetwork, Updater
from srft.verify.grade import Verdict

VARIANTS = {  # is a micro-batch one row, is the head the closed form, tokens of a micro-batch over --tokens
    "padded rows, autograd's head": (False, False, 1),
    "padded rows": (False, True, 1),
    "one row, prompts shared": (True, True, 1),
    "the same, micro-batches of a half": (True, True, 0.5),
    "the same, of 8 times as many tokens": (True, True, 8),
}


def responses_of(a: argparse.Namespace, vocabulary: int) -> list[Response]:
    """A demonstration and `n` rollouts for each prompt, where the method has them, of random tokens and rewards."""
    draw, needs, found = random.Random(0), get_method(a.method).needs({}), []

    def ids(mean: int) -> tuple[int, ...]:
        length = max(round(draw.normalvariate(mean, 0.3 * mean)), 2)
        return tuple(draw.randrange(3, vocabulary) for _ in range(length))

    for group in range(a.prompts):
        prompt = Prompt(Problem("", ""), ids(a.prompt))
        kinds = ["demonstrations" in needs] + [False] * (a.n * ("rollouts" in needs))
        for is_demo in kinds if kinds[0] else kinds[1:]:
            reward = float(is_demo or draw.random() < 0.4)
            found.append(Response(group, prompt, ids(a.response), is_demo, False, "", reward, Verdict.RIGHT))
    return found


def peak_memory(reset: bool = False) -> float:
    """MiB, the high-water mark of this process since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="srft:model")
    parser.add_argument("--method", default="srft")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--tokens", type=int, default=2048, help="of a micro-batch")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--n", type=int, default=8, help="rollouts of each prompt")
    parser.add_argument("--prompt", type=int, default=29, help="mean length of a prompt")
    parser.add_argument("--response", type=int, default=41, help="mean length of a response")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if a.precision == "bf16" else "no")
    policy = Policy(load_model(ModelSettings(path=a.model)))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0, fused=True)
    trained = TrainedNetwork(*accelerator.prepare(policy, optimizer))
    updater = Updater(trained, accelerator, get_method(a.method), {}, max_grad_norm=1.0)
    responses = responses_of(a, policy.causal_lm.config.vocab_size)
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in VARIANTS}
    metrics: dict[str, dict[str, Any]] = {}
    is_linear = forward.is_linear
    for _ in range(a.repeats + 1):
        for name, (packed, linear, share) in VARIANTS.items():
            policy.packed = packed
            forward.is_linear = is_linear if linear else lambda causal_lm: False
            batcher = Batcher(
                accelerator, max_response_length=512, tokens_per_micro_batch=int(a.tokens * share), pad_token_id=0,
                packed=packed,
            )  # fmt: skip
            ctypes.CDLL(None).malloc_trim(0)  # what the last variant freed is not this one's
            before = peak_memory(reset=True)
            wall, cpu = time.perf_counter(), time.process_time()
            metrics[name] = updater.update(batcher.make(responses, 1))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            rows[name].append((cpu, wall, peak_memory() - before))
    print("| variant | CPU time (s) | time (s) | memory (MiB) | loss | gradient norm |\n|---|---|---|---|---|---|")
    for name, values in rows.items():
        cpu, wall, memory = (median(x) for x in zip(*values[1:], strict=True))  # the first warms up
        loss, norm = (metrics[name][key] for key in ("loss", "grad_norm"))
        print(f"| {name} | {cpu:.2f} | {wall:.2f} | {memory:.0f} | {loss:.6f} | {norm:.5f} |")


if __name__ == "__main__":
    main()
