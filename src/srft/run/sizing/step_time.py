"""Time of a step by part: the roofline of the hardware (arithmetic, memory bandwidth, links) and what is reached of it.

Reading prompts, scoring and training are bound by arithmetic; decoding by the memory that each token's weights and
cache are read from. The shares of the roofline are constants below; docs/planning.md sets the result beside published
step times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from srft.run.sizing.memory import rows_at_once
from srft.run.sizing.setup import MASTER, Setup


@dataclass(frozen=True)
class Reached:
    """Shares of a device's peak that code reaches.

    Args:
        training: of arithmetic, forward and backward.
        reading: of arithmetic, forward alone, of prompts and of what is scored.
        decoding: of memory bandwidth.
        link: of the bandwidth between devices.
        pass_: seconds that a forward pass of one layer takes at least, however little there is to compute.
        token, row: seconds that vLLM adds to each token and to each row of it: scheduling, drawing, stop checks.
        step: seconds a step beside all that: grading, metrics, moving between phases.
    """

    training: float
    reading: float
    decoding: float
    link: float
    pass_: float
    token: float
    row: float
    step: float


# training, reading: the update and the scoring passes of a published log of verl 0.7.1 (7B on 16 H200). decoding,
# token, row, step: the generation and the rest of that log, and the step of NeMo RL v0.5 (8B on 16 H100). link: what
# NCCL commonly reaches. pass_: about 60 kernels a layer. The other published steps were not used.
GPU = Reached(training=0.45, reading=0.33, decoding=0.50, link=0.70, pass_=0.4e-3, token=5e-3, row=1e-5, step=5.0)
# quickstart and gsm8k-smollm2 on one core.
CPU = Reached(training=0.50, reading=0.50, decoding=0.50, link=0.50, pass_=0.4e-3, token=5e-3, row=1e-5, step=0.0)


def step_seconds(setup: Setup) -> dict[str, float]:
    """Seconds of a step by part, evaluations left out."""
    parts = {"sampling": sample_seconds(setup, setup.prompts_per_step, setup.n, setup.max_response_length)}
    if setup.samples:
        parts["weights to the sampler"] = _sync(setup)
    parts |= {"scoring": _scoring(setup), "training": _training(setup), "optimizer": _optimizer(setup)}
    parts["grading and the rest"] = _reached(setup).step
    return {part: seconds for part, seconds in parts.items() if seconds}


def run_seconds(setup: Setup) -> float:
    """Seconds of the stage: its steps, its evaluations, the selection before them."""
    steps = (setup.steps or 0) * sum(step_seconds(setup).values())
    evaluations = setup.evaluations_in_run * evaluation_seconds(setup)
    problems = setup.lengths.problems or 0
    return steps + evaluations + sample_seconds(setup, problems, setup.selection, setup.max_response_length)


def evaluation_seconds(setup: Setup) -> float:
    """Seconds of one evaluation."""
    return sum(sample_seconds(setup, e.problems, e.n, e.limit) for e in setup.evaluations)


def sample_seconds(setup: Setup, prompts: float, n: int, limit: int) -> float:
    """Seconds in which all ranks draw `n` responses of at most `limit` tokens to each prompt.

    Responses end at any token with equal probability, so that their mean is what the lengths say; then all rows decode
    together while more wait than fit, and fewer and fewer from there on: the last ones set the end.
    """
    if not prompts or not n:
        return 0.0
    setup = replace(setup, prompts_per_step=math.ceil(prompts), n=n)
    reached, width = _reached(setup), setup.tensor_parallel
    engines = max(1, setup.ranks // width)
    prompt, mean = setup.lengths.prompt, min(setup.lengths.response, 0.99 * limit)
    reading = prompts / engines * prompt * _forward(setup, prompt, head=False)
    reading /= width * setup.device.flops * reached.reading
    rows = prompts * n / engines
    batch = min(rows, max(1, rows_at_once(setup, prompt, mean)))
    rate = stop_rate(mean, limit)
    seconds = (rows - batch) * mean / batch * _token(setup, batch, prompt + mean / 2)
    pieces = 64  # of the last batch, over whose length the number of rows falls
    last = min(limit, (math.log(max(batch, 1.0)) + 0.58) / rate)
    for i in range(pieces):
        at = (i + 0.5) / pieces * last
        seconds += last / pieces * _token(setup, max(1.0, batch * math.exp(-rate * at)), prompt + at)
    return reading + seconds


def stop_rate(mean: float, limit: float) -> float:
    """λ of responses that end at each token with probability λ and are cut at the limit: (1 − e^(−λ·limit))/λ is their
    mean."""
    low, high = 1e-9, 10.0 / mean
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - math.exp(-middle * limit)) / middle > mean else (low, middle)
    return (low + high) / 2


def _token(setup: Setup, rows: float, context: float) -> float:
    """Seconds in which an engine decodes one token of each row."""
    shape, device, reached, width = setup.shape, setup.device, _reached(setup), setup.tensor_parallel
    number = 2 if setup.engine != "transformers" and device.is_gpu else setup.width
    moved = number * (shape.active + rows * context * shape.cache)
    arithmetic = rows * _forward(setup, 2 * context)
    busy = max(moved / (device.bandwidth * reached.decoding), arithmetic / (device.flops * reached.reading)) / width
    own = shape.layers * reached.pass_ if setup.engine == "transformers" else reached.token + reached.row * rows
    return busy + own


def _forward(setup: Setup, length: float, head: bool = True) -> float:
    """FLOP of one token's forward pass in a sequence of this length, half of which it sees on average."""
    shape = setup.shape
    products = 2.0 * (shape.body + (shape.vocabulary * shape.hidden if head else 0))
    return products + 2.0 * shape.layers * shape.query * length


def _pass(setup: Setup) -> tuple[float, float]:
    """FLOP of a forward pass over a rank's share of a step, and its number of micro-batches."""
    flops = tokens = 0.0
    for count, prompt, response in setup.sequences:
        length = prompt + response
        head = 2.0 * response * setup.shape.vocabulary * setup.shape.hidden
        flops += count * (length * _forward(setup, length, head=False) + head)
        tokens += count * length
    micro_batches = max(setup.updates_per_batch, tokens / setup.ranks / setup.micro_batch)
    return flops / setup.ranks, micro_batches


def _scoring(setup: Setup) -> float:
    """The reference's log-probs, and the policy's before its first update."""
    passes = setup.reference + setup.scoring * (1 + setup.networks)
    flops, micro_batches = _pass(setup)
    reached, gathered = _reached(setup), _gather(setup) * micro_batches
    busy = max(flops / (setup.device.flops * reached.reading), micro_batches * setup.shape.layers * reached.pass_)
    return passes * max(busy, gathered)


def _training(setup: Setup) -> float:
    """Forward and backward (twice the work; once with LoRA, which has no gradient of whole weights), one more forward
    with gradient checkpointing, and that of the reference where its whole distribution is asked for."""
    backward = 2 if setup.shape.trainable == setup.shape.parameters else 1
    passes = (1 + setup.networks) * (1 + backward + setup.gradient_checkpointing) + setup.frozen_in_update
    flops, micro_batches = _pass(setup)
    reached = _reached(setup)
    busy = max(flops / (setup.device.flops * reached.training), micro_batches * setup.shape.layers * reached.pass_)
    # Gathered for forward and for backward, and gradients scattered in float32.
    moved = micro_batches * (1 + setup.networks) * 4 * _gather(setup)
    return max(passes * busy, moved)


def _gather(setup: Setup) -> float:
    """Seconds in which a rank receives the weights that others hold (in bf16 or float32), once."""
    if not setup.shard or setup.ranks == 1:
        return 0.0
    share = 1 - 1 / setup.ranks
    return share * setup.width * setup.shape.parameters / _bandwidth(setup)


def _bandwidth(setup: Setup) -> float:
    """Bytes a second that a rank receives of all others: of the network where they are on several machines of eight."""
    device = setup.device
    return (min(device.network, device.link) if setup.ranks > 8 else device.link) * _reached(setup).link


def _optimizer(setup: Setup) -> float:
    """AdamW reads and writes weight, gradient and two moments; where they are offloaded, over the link to main memory.
    Undivided gradients are summed over the ranks."""
    trained = (setup.optimizers * setup.shape.trainable + setup.networks * setup.shape.parameters) / setup.shards
    rate = 32e9 if setup.offload else setup.device.bandwidth * _reached(setup).decoding
    summed = 2 * MASTER * trained / _bandwidth(setup) if setup.ranks > 1 and not setup.shard else 0.0
    return setup.updates_per_batch * (7 * MASTER * trained / rate + summed)


def _sync(setup: Setup) -> float:
    """The sampler takes the new weights; a sleeping engine's come back from main memory."""
    if setup.engine == "transformers" and not setup.shard:
        return 0.0
    size = 2.0 * setup.shape.parameters
    woken = size / 32e9 if setup.sleep and setup.engine == "vllm" else 0.0
    return size / (setup.device.bandwidth * 0.5) + _gather(setup) * 2 / setup.width + woken


def _reached(setup: Setup) -> Reached:
    return GPU if setup.device.is_gpu else CPU
