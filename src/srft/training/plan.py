"""Before any expensive work: read the data, check everything that can be wrong, and estimate memory, disk and time."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from srft.data import TEMPLATES, Counts, Problem, Prompt, check_tokenizer, load_problems, tokenize_problems
from srft.errors import SrftError
from srft.policy import load_config, load_tokenizer, pad_token
from srft.recipe import Recipe
from srft.rollout import find_engine
from srft.training.preference import check_pairs
from srft.training.prompts import GUIDE, find_patterns, read_patterns
from srft.verify import Verifier


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
        return sum(self.memory.values())


@dataclass(frozen=True)
class Plan:
    """A recipe's resolved parts, checked, without the model's weights.

    Args:
        prompts: to train on; `counts` of them and of what was cut or dropped.
        evaluations: prompts by set.
        steps: of the whole run.
        dropped_answers: problems left out because their answer does not grade as equal to itself.
        dropped_prompts: prompts left out because every demonstration of theirs was over the limit.
        patterns: thought patterns for guided rollouts, with their number of conditions.
        longest_prompt: tokens, the longest pattern included.
    """

    recipe: Recipe
    config: PretrainedConfig
    tokenizer: Any
    prompts: list[Prompt]
    counts: Counts
    evaluations: dict[str, list[Prompt]]
    steps: int
    dropped_answers: int
    dropped_prompts: int
    patterns: tuple[tuple[float, str], ...]
    longest_prompt: int

    @property
    def longest_sequence(self) -> int:
        """Tokens that a prompt, a hint and a response may take together."""
        rollout = self.recipe.rollout
        response = max(rollout.max_response_length, self.recipe.evaluation.max_response_length or 0)
        return self.longest_prompt + (rollout.max_response_length if rollout.hint else 0) + response

    @property
    def pad_token_id(self) -> int:
        return pad_token(self.tokenizer)


def make_plan(recipe: Recipe, verifier: Verifier, processes: int = 1) -> Plan:
    """Load what a run reads and check it.

    Raises:
        SrftError: for anything that would make the run fail or mean something else than the recipe says.
    """
    model, data, rollout, training = recipe.model, recipe.data, recipe.rollout, recipe.training
    find_engine(rollout.engine, processes)
    _check_split(training.prompts_per_step, recipe.optim.updates_per_batch, processes)
    trusted: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    config = load_config(model.path, changes=model.config, **trusted)
    tokenizer = load_tokenizer(model.path, **trusted)
    check_tokenizer(tokenizer, f"model.path: {model.path}")
    longest = max(rollout.max_response_length, recipe.evaluation.max_response_length or 0)

    problems = load_problems(data.path, split=data.split, limit=data.limit, options=data.options)
    kept = _with_good_answers(problems, recipe, verifier)
    if recipe.reads_demonstrations:
        _check_demonstrations(kept, recipe.method.name)
    usable, counts, dropped_prompts = _tokenized(recipe, tokenizer, kept, recipe.reads_demonstrations)
    if "preferences" in recipe.needs and data.selection is None:
        check_pairs(usable, f"data.path: {data.path}")
    patterns = _patterns(recipe, kept)
    room = max((len(tokenizer(GUIDE.format(pattern))["input_ids"]) for _, pattern in patterns), default=0)
    evaluations = {}
    for name, chosen in recipe.evaluation.sets.items():
        tests = load_problems(chosen.path, split=chosen.split, limit=chosen.limit, options=chosen.options)
        limits: dict[str, Any] = {"template": TEMPLATES[data.template], "max_prompt_length": data.max_prompt_length}
        evaluations[name], _ = tokenize_problems(tests, tokenizer, **limits, max_response_length=longest)
    steps, dropped = _steps(recipe, len(usable)), len(problems) - len(kept)
    plan = Plan(
        recipe,
        config,
        tokenizer,
        usable,
        counts,
        evaluations,
        steps,
        dropped,
        dropped_prompts,
        tuple(patterns),
        data.max_prompt_length + room,
    )
    _check_window(config, plan.longest_sequence)
    return plan


def with_problems(plan: Plan, problems: list[Problem]) -> Plan:
    """The plan on other problems: those of a selection."""
    usable, counts, dropped = _tokenized(plan.recipe, plan.tokenizer, problems, demonstrations=True)
    steps = _steps(plan.recipe, len(usable))
    return replace(plan, prompts=usable, counts=counts, dropped_prompts=dropped, steps=steps)


def _tokenized(
    recipe: Recipe, tokenizer: Any, problems: list[Problem], demonstrations: bool
) -> tuple[list[Prompt], Counts, int]:
    """The prompts to train on, their counts, and how many are left out for want of a demonstration."""
    data, limit = recipe.data, recipe.rollout.max_response_length
    prompts, counts = tokenize_problems(
        problems,
        tokenizer,
        template=TEMPLATES[data.template],
        max_prompt_length=data.max_prompt_length,
        max_response_length=limit,
        long_demonstrations=data.long_demonstrations,
    )
    usable = [p for p in prompts if p.demonstrations] if demonstrations else prompts
    if not usable:
        raise SrftError(
            f"every demonstration is longer than {limit} tokens",
            where=f"data.path: {data.path}",
            fix="Raise rollout.max_response_length or set data.long_demonstrations: truncate.",
        )
    return usable, counts, len(prompts) - len(usable)


def _steps(recipe: Recipe, problems: int) -> int:
    training = recipe.training
    if training.steps is not None:
        return training.steps
    return math.ceil((training.epochs or 0) * problems / training.prompts_per_step)


def _patterns(recipe: Recipe, problems: list[Problem]) -> list[tuple[float, str]]:
    guidance = recipe.rollout.guidance
    if guidance is None:
        return []
    found = read_patterns(guidance.library) if guidance.library else find_patterns(problems)
    if not found:
        raise SrftError(
            "there is no demonstration to take a thought pattern from",
            where="rollout.guidance",
            fix="Name a library of patterns (rollout.guidance.library), or give data with demonstrations.",
        )
    return found


def _check_split(prompts: int, updates: int, processes: int) -> None:
    if prompts % updates or prompts // updates < processes:
        raise SrftError(
            f"{prompts} prompts cannot be shared by {updates} updates of {processes} processes",
            where="training.prompts_per_step",
            fix=f"Make it a multiple of optim.updates_per_batch, and at least {updates * processes}.",
        )


def _check_window(config: PretrainedConfig, needed: int) -> None:
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    if window and needed > window:
        raise SrftError(
            f"a prompt and response may take {needed} tokens, the model's window holds {window}",
            where="rollout.max_response_length",
            fix="Lower it or data.max_prompt_length, or widen model.config.max_position_embeddings.",
        )


def _check_demonstrations(problems: list[Problem], method: str) -> None:
    missing = [p.where for p in problems if not p.demonstrations]
    if missing:
        raise SrftError(
            f"{len(missing)} of {len(problems)} problems have no demonstration, and '{method}' needs one each",
            where=missing[0],
            fix="Add a column `completion`, `target` or `demonstrations`, or use a method without them (grpo).",
        )


def _with_good_answers(problems: list[Problem], recipe: Recipe, verifier: Verifier) -> list[Problem]:
    if "rollouts" not in recipe.needs and recipe.data.selection is None:
        return problems  # rewards play no part
    bad = [p for p in problems if not p.answer]
    bad += verifier.self_check([p for p in problems if p.answer][: recipe.verify.check_answers])
    if not bad:
        return problems
    if recipe.data.bad_answers == "error":
        found = ", ".join(f"{p.where}: {p.answer!r}" for p in bad[:5])
        raise SrftError(
            f"{len(bad)} answers do not grade as equal to themselves: {found}",
            where=f"data.path: {recipe.data.path}",
            fix="Mend those answers, or leave them out with data.bad_answers: drop.",
        )
    places = {id(p) for p in bad}
    return [p for p in problems if id(p) not in places]


def estimate(plan: Plan) -> Size:
    """Memory, disk and time from the config alone. A guide: activations are counted at 20 floats a token, layer and
    hidden unit (2 with gradient checkpointing), time at this machine's measured matrix-product speed."""
    recipe, text = plan.recipe, plan.config.get_text_config()
    parameters = count_parameters(plan.config)
    lora, layers, hidden = recipe.model.lora, text.num_hidden_layers, text.hidden_size
    trainable = min(parameters, 14 * layers * hidden * lora.rank) if lora else parameters
    rollout, tokens = recipe.rollout, recipe.training.tokens_per_micro_batch
    needs = recipe.needs
    lengths = [len(p.ids) for p in plan.prompts]
    demo_lengths = [len(d) for p in plan.prompts for d in p.demonstrations] or [0]
    prompt, demo = sum(lengths) / len(lengths), sum(demo_lengths) / len(demo_lengths)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
    rows = min(rollout.max_batch, recipe.training.prompts_per_step * rollout.n)
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
