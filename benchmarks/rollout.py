"""Tokens per second of rollouts: transformers' `generate` against srft's samplers, side by side in one run.

Run: python benchmarks/rollout.py --model srft:model --prompts 16 --n 8 --repeats 5
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="srft:model")
    parser.add_argument("--data", default="srft:arithmetic/ood.jsonl")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    settings = ModelSettings(path=a.model)
    model, tokenizer = load_model(settings).eval(), load_tokenizer(settings)
    problems = load_problems(a.data, limit=a.prompts)
    limits: dict[str, Any] = {"max_prompt_length": 512, "max_response_length": a.tokens}
    tokenized = tokenize_problems(problems, tokenizer, template=TEMPLATES["chat"], **limits).prompts
    prompts = [list(p.token_ids) for p in tokenized]
    stop = {tokenizer.eos_token_id}

    def generate(seed: int) -> int:
        torch.manual_seed(seed)
        batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        ids = model.generate(
            **batch, do_sample=True, top_k=0, num_return_sequences=a.n, max_new_tokens=a.tokens, eos_token_id=list(stop)
        )
        new = ids[:, batch["input_ids"].shape[1] :]
        ended = torch.isin(new, torch.tensor(list(stop))).int()
        return int((ended.cumsum(1) - ended == 0).sum())

    def sampled(sampler: Sampler) -> Callable[[int], int]:
        params = SamplingParams(n=a.n, max_response_length=a.tokens)

        def run(seed: int) -> int:
            requests = [SampleRequest(prompt, seed * 1000 + i) for i, prompt in enumerate(prompts)]
            return sum(len(s.token_ids) for group in sampler.sample(requests, params) for s in group)

        return run

    runs = {"generate": generate}
    longest = len(max(prompts, key=len)) + a.tokens
    for name, backend in samplers().items():
        try:
            backend.check(processes=1)
        except SrftError as reason:
            print(f"{name}: left out, {reason.what}")
            continue
        engine = SamplerSettings(engine=name)
        runs[name] = sampled(make_sampler(engine, Policy(model), settings, tokenizer, max_model_len=longest))
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(a.repeats + 1):  # the first one warms up
        for name, run in runs.items():
            began = time.perf_counter()
            tokens = run(repeat)
            if repeat:
                speeds[name].append(tokens / (time.perf_counter() - began))
    base = median(speeds["generate"])
    for name, values in speeds.items():
        print(f"{name:14s} {median(values):8.0f} tokens/s   {median(values) / base:5.2f} × generate")


if __name__ == "__main__":
    main()
