"""Memory, disk and time of a run, from the model's config alone."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from srft.errors import SrftError
from srft.run.plan import Plan


@dataclass(frozen=True)
class Size:
    """What a run takes of one process: bytes of memory by part, bytes of checkpoints, seconds."""

    parameters: int
    trainable: int
    memory: dict[str, float]
    disk: float
    seconds: float

    @property
    def total_memory(self) -> float:
        """Bytes."""
        return sum(self.memory.values())


def estimate(plan: Plan) -> Size:
    """Memory, disk and time from the config alone. A guide: activations are counted at 20 floats a token, layer and
    hidden unit (2 with gradient checkpointing), time at this machine's measured matrix-product speed."""
    recipe, text = plan.recipe, plan.config.get_text_config()
    parameters = count_parameters(plan.config)
    lora, layers, hidden = recipe.model.lora, text.num_hidden_layers, text.hidden_size
    trainable = min(parameters, 14 * layers * hidden * lora.rank) if lora else parameters
    rollout, tokens = recipe.rollout, recipe.training.tokens_per_micro_batch
    needs = recipe.needs
    lengths = [len(p.token_ids) for p in plan.prompts]
    demo_lengths = [len(d.token_ids) for p in plan.prompts for d in p.demonstrations] or [0]
    prompt, demo = sum(lengths) / len(lengths), sum(demo_lengths) / len(demo_lengths)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
    rows = min(rollout.max_batch or 256, recipe.training.prompts_per_step * rollout.n)
    cached = rows * (max(lengths) + rollout.max_response_length) * layers * heads * head * 2
    precise = recipe.training.precision == "fp32" or not torch.cuda.is_available()
    width = 4 if precise else 2
    memory = {
        "weights": 4.0 * parameters,
        "gradients and optimizer": 12.0 * trainable,
        "reference": 4.0 * parameters if needs & {"reference", "reference_distribution", "preferences"} else 0.0,
        "critic or reward model": 16.0 * parameters if needs & {"critic", "reward_model"} else 0.0,
        "activations": width * tokens * layers * hidden * (2.0 if recipe.model.gradient_checkpointing else 20.0),
        "vocabulary chunk": 4 * 3.0 * 1024 * text.vocab_size,
        "rollout cache": float(width * cached) if "rollouts" in needs else 0.0,
    }
    response = demo if demo else rollout.max_response_length / 2
    sampled = rollout.n * response if "rollouts" in needs else 0.0
    trained = sampled + rollout.n * prompt * bool(sampled) + (prompt + demo) * ("demonstrations" in needs)
    flops = plan.recipe.training.prompts_per_step * (6 * trained + 4 * sampled) * parameters
    disk = (4.0 * parameters + 8.0 * trainable) * (recipe.training.keep_checkpoints + 1)
    return Size(parameters, trainable, memory, disk, plan.steps * flops / _flops_per_second())


def count_parameters(config: PretrainedConfig) -> int:
    """Parameters of a model of this config, without allocating any."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return sum(p.numel() for p in model.parameters())


def check_size(size: Size, out: Path, processes: int = 1) -> None:
    """Raises SrftError where memory or disk will not do."""
    if torch.cuda.is_available():
        free, kind = float(torch.cuda.mem_get_info()[0]), "of GPU memory"
    else:
        free, kind = psutil.virtual_memory().available / processes, "of memory"
    if size.total_memory > free:
        raise SrftError(
            f"the run needs about {gib(size.total_memory)} {kind} per process, {gib(free)} are free",
            where="model.path",
            fix="Take a smaller model, model.lora, model.gradient_checkpointing: true, "
            "or lower training.tokens_per_micro_batch or rollout.max_batch.",
        )
    folder = next(p for p in (out, *out.absolute().parents) if p.exists())
    if size.disk > (space := shutil.disk_usage(folder).free):
        raise SrftError(
            f"checkpoints take up to {gib(size.disk)}, {gib(space)} are free there",
            where=f"--out {out}",
            fix="Free some space, name another --out, or lower training.keep_checkpoints.",
        )


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"


def _flops_per_second() -> float:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(1024, 1024, device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    for _ in range(3):
        x @ x
    began, n = time.perf_counter(), 20
    for _ in range(n):
        y = x @ x
    float(y.sum())
    return 0.35 * n * 2 * 1024**3 / (time.perf_counter() - began)  # what a training step reaches of it, roughly
