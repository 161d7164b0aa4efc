"""What memory and time follow from: a recipe's numbers, its model's sizes, the lengths of its data, the hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from srft.policy.placement import pick_precision
from srft.recipe.schema import Recipe
from srft.rollout.samplers.vllm import VllmSampler
from srft.run.sizing.hardware import Device
from srft.run.sizing.shape import Shape

MASTER = 4  # bytes of a float32 weight, gradient or moment
STATE = 3 * MASTER  # gradient and AdamW's two moments of a trained weight

Engine = Literal["transformers", "vllm", "server"]


@dataclass(frozen=True)
class Evaluation:
    """Benchmarks of a run: problems, samples of each, tokens of a response at most."""

    problems: int
    n: int
    limit: int


@dataclass(frozen=True)
class Lengths:
    """Tokens of the data.

    Args:
        prompt, response, demonstration: means.
        longest_prompt: at most.
        problems: to train on; None where the data could not be read.
        origin: where the figures come from, for the reader.
    """

    prompt: float
    response: float
    demonstration: float
    longest_prompt: int
    problems: int | None
    origin: str

    @classmethod
    def measured(cls, prompts: Sequence[int], demonstrations: Sequence[int], limit: int) -> Lengths:
        """Of tokenised data; responses are taken to be as long as demonstrations, or half of the limit without any."""
        demonstration = sum(demonstrations) / len(demonstrations) if demonstrations else 0.0
        response = demonstration or limit / 2
        guess = "as long as demonstrations" if demonstrations else f"half of the limit of {limit}"
        origin = f"prompts measured in the data; responses taken to be {guess}"
        return cls(sum(prompts) / len(prompts), response, demonstration, max(prompts), len(prompts), origin)

    @classmethod
    def assumed(cls, recipe: Recipe) -> Lengths:
        """Half of the recipe's limits."""
        prompt, response = recipe.data.max_prompt_length, recipe.rollout.max_response_length
        origin = "the data was not read: prompts and responses are taken to be half of their limits"
        return cls(prompt / 2, response / 2, response / 2, prompt, None, origin)


@dataclass(frozen=True)
class Setup:
    """One stage of a run on its hardware. Numbers keep the names that they have in the recipe.

    Args:
        ranks: training processes, one a device.
        shard: weights, gradients and optimizer states are divided over the ranks (FSDP2).
        shardable: they can be; what TRL trains cannot.
        offload: that state waits in main memory.
        quantized: the layers of the base are in 4 bits.
        reference: frozen copies of the base.
        networks: trained with the policy: a critic, a reward model.
        frozen_in_update: the reference's distribution is taken in every update.
        vocabulary: the method has terms of the whole vocabulary.
        scoring: forward passes of the policy before the updates.
        optimizers: of the policy; a buffer has its own.
        sequences: (count, prompt tokens, response tokens) of what a step trains on.
    """

    shape: Shape
    device: Device
    ranks: int
    bf16: bool
    shard: bool
    shardable: bool
    offload: bool
    quantized: bool
    gradient_checkpointing: bool
    flash: bool
    tokens_per_micro_batch: int
    updates_per_batch: int
    reference: int
    networks: int
    frozen_in_update: bool
    vocabulary: bool
    scoring: int
    optimizers: int
    samples: bool
    engine: Engine
    gpu_memory: float
    sleep: bool
    tensor_parallel: int
    max_batch: int | None
    prompts_per_step: int
    n: int
    sequences: tuple[tuple[float, float, float], ...]
    lengths: Lengths
    max_prompt_length: int
    max_response_length: int
    evaluations: tuple[Evaluation, ...]
    steps: int | None
    evaluations_in_run: int
    selection: int
    keep_checkpoints: int

    @property
    def width(self) -> int:
        """Bytes of a number in the model's forward pass."""
        return 2 if self.bf16 else 4

    @property
    def shards(self) -> int:
        """Ranks over which the training state is divided."""
        return self.ranks if self.shard else 1

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that training can meet."""
        return self.lengths.longest_prompt + self.max_response_length

    @property
    def micro_batch(self) -> int:
        """Padded tokens of the largest forward pass: a longer sequence goes alone."""
        return max(self.tokens_per_micro_batch, self.longest)

    @property
    def state(self) -> float:
        """Bytes of weights, gradients and optimizer states, undivided."""
        shape = self.shape
        policy = MASTER * shape.parameters + (STATE + 2 * MASTER * (self.optimizers - 1)) * shape.trainable
        return policy + self.networks * (MASTER + STATE) * shape.parameters + MASTER * self.reference * shape.parameters


def make_setup(
    recipe: Recipe,
    shape: Shape,
    lengths: Lengths,
    device: Device,
    *,
    ranks: int = 1,
    engine: Engine,
    evaluations: tuple[Evaluation, ...] = (),
    verl: bool = False,
) -> Setup:
    """The numbers of a recipe (or of one of its stages).

    Args:
        engine: that samples; `auto` is resolved.
        verl: training on verl, whose FSDP workers always divide the state and let vLLM sleep.
    """
    needs, training, rollout = recipe.needs, recipe.training, recipe.rollout
    vllm = rollout.options(VllmSampler)
    samples = "rollouts" in needs
    demonstrations = rollout.demonstrations if "demonstrations" in needs else 0
    rows, prompts = recipe.sampling.n if samples else 0, training.prompts_per_step
    sequences = [(rows * prompts, lengths.prompt, lengths.response)] if samples else []
    pairs = 2 if "preferences" in needs else 0
    if demonstrations or pairs:
        sequences.append(
            ((demonstrations + pairs) * prompts, lengths.prompt, lengths.demonstration or lengths.response)
        )
    distribution, reference = "reference_distribution" in needs, bool(needs & {"reference", "preferences"})
    several = recipe.optim.updates_per_batch > 1 or rollout.correction != "none"
    steps = training.steps
    if steps is None and lengths.problems is not None:
        steps = -(-round((training.epochs or 0) * lengths.problems) // prompts)
    every = recipe.evaluation.every
    asked, offload = training.shard, training.offload
    return Setup(
        shape=shape,
        device=device,
        ranks=ranks,
        bf16=pick_precision(training.precision, torch.device("cuda" if device.is_gpu else "cpu")) == "bf16",
        shard=verl or bool(asked) or offload,
        shardable=asked is not False and "preferences" not in needs,
        offload=offload,
        quantized=recipe.model.quantization is not None,
        gradient_checkpointing=recipe.model.gradient_checkpointing,
        flash="flash" in (recipe.model.attention or "") or verl,
        tokens_per_micro_batch=training.tokens_per_micro_batch,
        updates_per_batch=recipe.optim.updates_per_batch,
        reference=int(distribution or reference),
        networks=len(needs & {"critic", "reward_model"}),
        frozen_in_update=distribution or "preferences" in needs,
        vocabulary=bool(recipe.loss.vocabulary) or "preferences" in needs,
        scoring=int(("old_logp" in needs and several) or "means" in needs),
        optimizers=2 if recipe.hooks.model_dump().get("buffer") else 1,
        samples=samples or recipe.data.selection is not None,
        engine=engine,
        gpu_memory=vllm.gpu_memory,
        sleep=verl or vllm.sleep,
        tensor_parallel=1,
        max_batch=rollout.max_batch,
        prompts_per_step=prompts,
        n=rows,
        sequences=tuple(sequences),
        lengths=lengths,
        max_prompt_length=recipe.data.max_prompt_length,
        max_response_length=rollout.max_response_length,
        evaluations=evaluations,
        steps=steps,
        evaluations_in_run=1 + recipe.evaluation.at_start + ((steps or 0) - 1) // every if every and steps else 2,
        selection=recipe.data.selection.n if recipe.data.selection else 0,
        keep_checkpoints=training.keep_checkpoints + (training.best is not None),
    )
