"""Rollouts: transformers' `generate`, as TRL calls it, against srft's samplers, side by side in one run.

Tokens per second (medians), milliseconds per step of decoding, and by how much memory grows at its peak:

    python benchmarks/rollout.py --model srft:model --prompts 16 --n 8
    python benchmarks/rollout.py --model srft:model --prompts 2 --lengths 256,512,1024,2048,4096 --endless
    python benchmarks/rollout.py --model HuggingFaceTB/SmolLM2-135M-Instruct --prompts 4 --precision bf16

TRL expands each prompt to its group before it is read, and enters autocast anew at each step.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from srft.data import TEMPLATES, load_problems, tokenize_problems
from srft.errors import SrftError
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, load_model, load_tokenizer
from srft.rollout.engine import SamplerSettings, make_sampler
from srft.rollout.sampler import Sampler, SampleRequest, SamplingParams
from srft.rollout.samplers import samplers

Run = Callable[[int, int], tuple[int, int]]  # seed and length to tokens and steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="srft:model")
    parser.add_argument("--data", default="srft:arithmetic/ood.jsonl")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--lengths", default="160", help="tokens of a response at most, several by commas")
    parser.add_argument("--endless", action="store_true", help="no token ends a response")
    parser.add_argument("--max-batch", type=int, help="rows decoded together by srft's samplers")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="of this process, on a machine that does other work")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="contenders by commas; all of them if left out")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    now = time.process_time if a.cpu_time else time.perf_counter
    lengths = [int(length) for length in a.lengths.split(",")]
    runs = contenders(a, max(lengths))
    if a.only:
        runs = {name: runs[name] for name in a.only.split(",")}
    for length in lengths:
        speeds: dict[str, list[float]] = {name: [] for name in runs}
        paces: dict[str, list[float]] = {name: [] for name in runs}
        memory: dict[str, int] = {}
        for repeat in range(a.repeats + 1):  # the first one warms up
            for name, run in runs.items():
                before = reset_peak()
                began = now()
                tokens, steps = run(repeat, length)
                seconds = now() - began
                memory[name] = max(memory.get(name, 0), kilobytes("VmHWM") - before)
                if repeat or not a.repeats:
                    speeds[name].append(tokens / seconds)
                    paces[name].append(1000 * seconds / steps)
        base = next(iter(runs))
        for name in runs:
            ratio = median(speeds[name]) / median(speeds[base])
            print(
                f"{length:5d} tokens  {name:13s} {median(speeds[name]):8.0f} tokens/s  {ratio:5.2f} × {base}"
                f"  {median(paces[name]):7.1f} ms a step  peak +{memory[name] / 1024:.0f} MB",
                flush=True,
            )


def contenders(a: argparse.Namespace, longest: int) -> dict[str, Run]:
    """What can run here, by name."""
    settings = ModelSettings(path=a.model)
    model, tokenizer = load_model(settings).eval(), load_tokenizer(settings)
    problems = load_problems(a.data, limit=a.prompts)
    limits: dict[str, Any] = {"max_prompt_length": 512, "max_response_length": longest}
    tokenized = tokenize_problems(problems, tokenizer, template=TEMPLATES["chat"], **limits).prompts
    prompts = [list(p.token_ids) for p in tokenized]
    autocast = {"device_type": "cpu", "dtype": torch.bfloat16, "enabled": a.precision == "bf16"}
    stop = set() if a.endless else {tokenizer.eos_token_id}
    plain_forward = model.forward

    def generate(seed: int, length: int) -> tuple[int, int]:
        torch.manual_seed(seed)
        rows = [prompt for prompt in prompts for _ in range(a.n)]
        batch = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        model.generation_config.eos_token_id = None
        options: dict[str, Any] = {"eos_token_id": sorted(stop)} if stop else {}
        model.forward = torch.autocast(**autocast)(plain_forward)
        try:
            ids = model.generate(**batch, do_sample=True, top_k=0, top_p=1.0, max_new_tokens=length, **options)
        finally:
            model.forward = plain_forward
        new = ids[:, batch["input_ids"].shape[1] :]
        ended = torch.isin(new, torch.tensor(sorted(stop))).int()
        return int((ended.cumsum(1) - ended == 0).sum()), new.shape[1]

    def sampled(sampler: Sampler) -> Run:
        def run(seed: int, length: int) -> tuple[int, int]:
            requests = [SampleRequest(prompt, seed * 1000 + i) for i, prompt in enumerate(prompts)]
            with torch.autocast(**autocast):
                groups = sampler.sample(requests, SamplingParams(n=a.n, max_response_length=length))
            sizes = [len(s.token_ids) for group in groups for s in group]
            return sum(sizes), max(sizes)

        return run

    runs: dict[str, Run] = {"generate": generate}
    for name in samplers():
        engine = SamplerSettings(engine=name, max_batch=a.max_batch)
        try:
            engine.resolve()
        except SrftError as reason:
            print(f"{name}: left out, {reason.what}")
            continue
        sampler = make_sampler(
            engine, Policy(model), settings, tokenizer, max_model_len=len(max(prompts, key=len)) + longest
        )
        if hasattr(sampler, "stop_token_ids"):
            sampler.stop_token_ids = stop
        runs[name] = sampled(sampler)
    return runs


def reset_peak() -> int:
    """Kilobytes that this process holds; its peak begins anew from there."""
    Path("/proc/self/clear_refs").write_text("5")
    return kilobytes("VmRSS")


def kilobytes(name: str) -> int:
    """A line of what Linux says of this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", status)[1])  # type: ignore[index]


if __name__ == "__main__":
    main()
