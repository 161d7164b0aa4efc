"""Tokens per second of rollouts: transformers' `generate` against srft's samplers, side by side in one run.

Run: python benchmarks/rollout.py --model srft:model --prompts 16 --n 8 --repeats 5
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from srft.data import TEMPLATES, load_problems, resolve_path, tokenize_problems
from srft.policy import load_model, load_tokenizer
from srft.rollout import TransformersSampler, make_sampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="srft:model")
    parser.add_argument("--data", default="srft:arithmetic/ood.jsonl")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    model, tokenizer = load_model(a.model).eval(), load_tokenizer(a.model)
    problems = load_problems(a.data, limit=a.prompts)
    limits: dict[str, Any] = {"max_prompt_length": 512, "max_response_length": a.tokens}
    prompts = [list(p.ids) for p in tokenize_problems(problems, tokenizer, template=TEMPLATES["chat"], **limits)[0]]
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

    def sampled(sampler: Any) -> Callable[[int], int]:
        def run(seed: int) -> int:
            seeds = [seed * 1000 + i for i in range(len(prompts))]
            groups = sampler.sample(prompts, n=a.n, seeds=seeds, max_new_tokens=a.tokens)
            return sum(len(s.token_ids) for group in groups for s in group)

        return run

    runs = {"generate": generate, "transformers": sampled(TransformersSampler(model, 0, stop))}
    if importlib.util.find_spec("vllm") is not None:
        engine = make_sampler(
            "vllm",
            model,
            path=resolve_path(a.model),
            pad_token_id=0,
            stop_token_ids=stop,
            max_model_len=len(max(prompts, key=len)) + a.tokens,
        )
        runs["vllm"] = sampled(engine)
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
