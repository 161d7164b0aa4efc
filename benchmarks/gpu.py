"""Everything to find out on a GPU, in one command: python benchmarks/gpu.py (on a CPU, to try it: --device cpu --tiny).

1. correctness: SRFT's gradient on the device against that of the CPU in float64, in float32 and bf16; and how far the
   sampler's log-probs are from the trainer's.
2. quickstart: the embedded recipe, a few steps.
3. a random model of Qwen2-1.5B's shape: sampling and training beside TRL on the same work, peak memory, and the floor
   that the measured rate of a bf16 product and the memory's bandwidth set (`limit.py`); its share is the utilisation.

Prints Markdown, and in the end one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from against_trl import compare, table
from contenders import Work
from limit import decoding_floor, measure, shape_of, training_floor
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config

from srft.data import TEMPLATES, load_problems, tokenize_problems
from srft.objective import Responses, Tokens, get_method
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, load_model, load_tokenizer
from srft.policy.micro_batch import ModelInput, make_micro_batches, pad
from srft.recipe.load import load_recipe
from srft.rollout.engine import SamplerSettings, make_sampler
from srft.rollout.sampler import SampleRequest, SamplingParams
from srft.run.train import train

EMBEDDED = ModelSettings(path="srft:model")
QWEN2 = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip
TINY = {**QWEN2, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 2048}


def prompts(count: int) -> list[Any]:
    """Of the embedded data, with their demonstrations."""
    problems = load_problems("srft:arithmetic/train.jsonl", limit=count)
    lengths = {"max_prompt_length": 96, "max_response_length": 160}
    return tokenize_problems(problems, load_tokenizer(EMBEDDED), template=TEMPLATES["chat"], **lengths).prompts


def learnt(device: torch.device, dtype: torch.dtype, autocast: bool) -> tuple[Tensor, Tensor]:
    """SRFT's gradient and the log-probs on a fixed step, as float64 on the CPU: half of its responses are
    demonstrations, a quarter right rollouts."""
    policy = Policy(load_model(EMBEDDED).to(device, dtype))
    inputs = [ModelInput(p.token_ids, p.demonstrations[0].token_ids, row) for row, p in enumerate(prompts(16))]
    rows = torch.arange(len(inputs))
    lengths = torch.tensor([len(x.response_ids) for x in inputs])
    whole = Responses((rows % 4 < 3).double(), rows // 4, rows % 2 == 0, lengths, limit=160).to(device)
    logps = torch.zeros(len(inputs), int(lengths.max()), dtype=torch.float64)
    for batch in make_micro_batches(inputs, 1024, 0):
        on_device = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            values = policy(on_device)
        t = Tokens(values.logp, values.entropy, on_device.row, whole)
        torch.stack(list(get_method("srft")(t).values())).sum().backward()
        logps[batch.row, t.position.cpu()] = values.logp.detach().cpu().double()
    return torch.cat([p.grad.flatten().cpu().double() for p in policy.parameters() if p.grad is not None]), logps


def correctness(device: torch.device) -> dict[str, float]:
    """How far the device is from the CPU's float64, and the sampler from the trainer."""
    exact, logps = learnt(torch.device("cpu"), torch.float64, autocast=False)
    found: dict[str, float] = {}
    for name, autocast in {"fp32": False, "bf16": True}.items():
        gradient, scored = learnt(device, torch.float32, autocast)
        found[f"gradient difference, {name} (share of its norm)"] = float((gradient - exact).norm() / exact.norm())
        found[f"largest log-prob difference, {name} (nats)"] = float((scored - logps).abs().max())
        policy = Policy(load_model(EMBEDDED).to(device))
        tokenizer, asked = load_tokenizer(EMBEDDED), prompts(8)
        sampler = make_sampler(SamplerSettings(engine="transformers"), policy, EMBEDDED, tokenizer, max_model_len=256)
        requests = [SampleRequest(p.token_ids, i) for i, p in enumerate(asked)]
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast), torch.no_grad():
            groups = sampler.sample(requests, SamplingParams(n=4, max_response_length=160))
            pairs = [(p.token_ids, s) for p, group in zip(asked, groups, strict=True) for s in group]
            batch = pad([ModelInput(ids, s.token_ids, i) for i, (ids, s) in enumerate(pairs)], 0).to(device)
            scored = policy(batch).logp.cpu()
        drawn = torch.tensor([x for _, s in pairs for x in s.logprobs])
        found[f"sampler and trainer, {name}: mean log-prob difference (nats)"] = float((drawn - scored).abs().mean())
    return found


def quickstart(steps: int, where: Sequence[str]) -> dict[str, float]:
    """The embedded recipe."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe("quickstart", [f"training.steps={steps}", "evaluation.sets={}", *where])
        rows = train(recipe, Path(folder) / "run").metrics
    few = max(len(rows) // 4, 1)
    return {
        "tokens/s": median(row["tokens_per_second"] for row in rows),
        "seconds of a step": median(row["step_time"] for row in rows),
        "reward, first quarter": fmean(row["reward"] for row in rows[:few]),
        "reward, last quarter": fmean(row["reward"] for row in rows[-few:]),
    }


def beside_trl(device: torch.device, tiny: bool, where: Sequence[str], rounds: int) -> dict[str, float]:
    """A GRPO step of the random model beside TRL's, and its share of what the machine can do."""
    machine = measure(device, 512 if tiny else 8192)
    with tempfile.TemporaryDirectory() as folder:
        config = Qwen2Config(**(TINY if tiny else QWEN2), tie_word_embeddings=True, max_position_embeddings=4096)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        load_tokenizer(EMBEDDED).save_pretrained(folder)
        overrides = [
            f"model.path={folder}", "optim.lr=1e-6", "training.precision=bf16", "rollout.n=8",
            f"rollout.max_response_length={32 if tiny else 512}", f"training.prompts_per_step={2 if tiny else 16}",
            *where,
        ]  # fmt: skip
        work = Work("quickstart", overrides, "grpo", os.cpu_count() or 1)
        same, (ours, trl) = compare(work, [""], ["per_device_train_batch_size=16"], rounds)
        shape = shape_of(ModelSettings(path=folder))
    print(f"{same}\n\n{table([ours, trl], trl)}\n")
    sizes = [len(ids) for ids in trl.steps[-1].rollouts]
    asked = [round(fmean(len(p.token_ids) for p in prompts(64)))] * (len(sizes) // 8)
    floors = {
        "sampling": decoding_floor(shape, machine, "bf16", asked, sizes),
        "training": training_floor(shape, machine, "bf16", asked, sizes),
    }
    taken = {part: median(getattr(step, part) for step in ours.steps[1:]) for part in floors}
    return {
        "bf16 product (TFLOP/s)": machine.flops["bf16"] / 1e12,
        "bandwidth (GB/s)": machine.bandwidth / 1e9,
        "sampling (tokens/s)": median(s.tokens / s.sampling for s in ours.steps[1:]),
        "training (tokens/s)": sum(sizes) / taken["training"],
        "training, share of the floor": floors["training"] / taken["training"],
        "sampling, share of the floor": floors["sampling"] / taken["sampling"],
        "peak memory (MiB)": ours.steps[-1].peak,
        "TRL's peak memory (MiB)": trl.steps[-1].peak,
        "TRL's sampling (tokens/s)": median(s.tokens / s.sampling for s in trl.steps[1:]),
        "TRL's training (s) over ours": median(s.training for s in trl.steps[1:]) / taken["training"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes and few steps, to try it")
    parser.add_argument("--parts", nargs="+", default=["correctness", "quickstart", "trl"])
    a = parser.parse_args()
    if a.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU; to try it: --device cpu --tiny")
    device, where = torch.device(a.device), ["training.device=cpu"] if a.device == "cpu" else []
    parts = {
        "correctness": lambda: correctness(device),
        "quickstart": lambda: quickstart(2 if a.tiny else 80, where),
        "trl": lambda: beside_trl(device, a.tiny, where, 1 if a.tiny else 4),
    }
    name = torch.cuda.get_device_name() if a.device == "cuda" else "CPU"
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "tiny": a.tiny}
    for part in a.parts:
        report[part] = parts[part]()
        print(f"### {part}\n\n| | {name} |\n|---|---|")
        print("\n".join(f"| {key} | {value:.4g} |" for key, value in report[part].items()) + "\n", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
