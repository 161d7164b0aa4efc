"""How cost grows: CPU seconds of sampling and of an update as a power of prompt length, response length, group, number
of prompts, vocabulary and model width, each doubled three times while the others stay:
python benchmarks/growth.py [--factors …].

The models are random Qwen2 shapes; no response ends early, so every length is what it says. It is CPU time of all
threads, sizes take turns, and the least of the repeats counts, so that a busy machine bends no curve. The exponent is
the slope of a line through the logarithms: 1 is linear.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from srft.policy.forward import Policy
from srft.policy.load import ModelSettings
from srft.policy.micro_batch import ModelInput, make_micro_batches
from srft.rollout.engine import SamplerSettings, make_sampler
from srft.rollout.sampler import SampleRequest, SamplingParams


@dataclass(frozen=True)
class Size:
    """One point: tokens of a prompt and of a response, responses of a group, prompts, vocabulary, hidden width."""

    prompt: int = 32
    response: int = 64
    group: int = 4
    prompts: int = 2
    vocabulary: int = 1024
    width: int = 128


FACTORS = {
    "prompt": (128, 256, 512, 1024),
    "response": (128, 256, 512, 1024),
    "group": (4, 8, 16, 32),
    "prompts": (2, 4, 8, 16),
    "vocabulary": (8192, 16384, 32768, 65536),
    "width": (128, 256, 512, 1024),
}


class Subject:
    """A model of a size with its work: `sample` and `update`.

    Args:
        tokens: padded tokens of a micro-batch.
    """

    def __init__(self, size: Size, tokens: int) -> None:
        torch.manual_seed(0)
        heads = max(size.width // 64, 1)
        config = Qwen2Config(
            vocab_size=size.vocabulary, hidden_size=size.width, intermediate_size=3 * size.width, num_hidden_layers=4,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=8192,
            tie_word_embeddings=True, eos_token_id=None, bos_token_id=None,
        )  # fmt: skip
        self.size, self.policy = size, Policy(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
        never = SimpleNamespace(eos_token_id=size.vocabulary, pad_token_id=0)  # no token of the model's ends a response
        length = size.prompt + size.response
        self.sampler = make_sampler(
            SamplerSettings(engine="transformers"), self.policy, ModelSettings(path=""), never, max_model_len=length
        )
        self.params = SamplingParams(n=size.group, max_response_length=size.response)
        ids = torch.randint(size.vocabulary, (size.prompts, size.prompt)).tolist()
        self.requests = [SampleRequest(prompt, i) for i, prompt in enumerate(ids)]
        answers = torch.randint(size.vocabulary, (size.prompts * size.group, size.response)).tolist()
        inputs = [ModelInput(ids[row // size.group], answer, row) for row, answer in enumerate(answers)]
        self.micro_batches = make_micro_batches(inputs, tokens, 0)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=1e-6)

    def sample(self) -> None:
        """Draw every response to its full length."""
        self.sampler.sample(self.requests, self.params)

    def update(self) -> None:
        """Forward, backward and AdamW on a policy-gradient loss."""
        self.policy.train()
        for batch in self.micro_batches:
            values = self.policy(batch)
            (-(values.logp * (batch.row % 2 - 0.5)).mean()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def fastest(subjects: Sequence[Subject], work: str, repeats: int) -> list[float]:
    """CPU seconds of each subject's work, the least of the repeats."""
    times: list[list[float]] = [[] for _ in subjects]
    for _ in range(repeats):
        for subject, taken in zip(subjects, times, strict=True):
            began = time.process_time()
            getattr(subject, work)()
            taken.append(time.process_time() - began)
    return [min(taken) for taken in times]


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log size, by least squares."""
    x, y = ([math.log(v) for v in values] for values in (sizes, seconds))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", nargs="+", choices=list(FACTORS), default=list(FACTORS))
    parser.add_argument("--longest", type=int, help="of prompts and responses, in tokens, in place of 1024")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2048, help="padded tokens of a micro-batch")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    print(f"{Size()}, {a.threads} thread(s), CPU time, the least of {a.repeats}\n")
    print("| factor | sizes | sampling (s) | exponent | training (s) | exponent |\n|---|---|---|---|---|---|")
    for factor in a.factors:
        sizes = FACTORS[factor]
        if a.longest and factor in ("prompt", "response"):
            sizes = tuple(a.longest // 2**k for k in (3, 2, 1, 0))
        subjects = [Subject(replace(Size(), **{factor: value}), a.tokens) for value in sizes]
        cells = []
        for work in ("sample", "update"):
            seconds = fastest(subjects, work, a.repeats)
            cells += [", ".join(f"{s:.2f}" for s in seconds), f"{exponent(sizes, seconds):.2f}"]
        print(f"| {factor} | {', '.join(map(str, sizes))} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
