"""Memory of one training process by part, in the phases of a step.

A part is counted from what the code keeps: weights, gradients and AdamW's moments in float32; the tensors that each
layer of a transformers model saves for the backward pass; the logits of one chunk of the head. docs/planning.md
compares it with allocations traced through the same code.
"""

from __future__ import annotations

from srft.policy.forward import CHUNK
from srft.policy.head import CHUNK_ELEMENTS
from srft.run.sizing.hardware import GB
from srft.run.sizing.setup import MASTER, Setup

LOGITS = 5.5  # float32 copies of a chunk's logits that forward and backward hold at once, traced
CPU_CACHE = 2**30  # of vLLM for keys and values, unless VLLM_CPU_KVCACHE_SPACE says otherwise
ENGINE_OVERHEAD = 2 * GB  # of vLLM: workspace and CUDA graphs, beside weights and cache
RUNTIME = 1 * GB  # of a GPU: the CUDA context and NCCL's buffers
LIBRARIES = 0.5 * GB  # of a process on a CPU: Python, torch, transformers and the data, measured

NF4 = 0.516  # bytes of a weight in 4 bits with its share of the scales, which are quantized too (QLoRA, §3)

Parts = dict[str, float]


def memory(setup: Setup) -> dict[str, Parts]:
    """Bytes by part in each phase of a step; the largest phase is what a process needs."""
    held, state = _frozen(setup), _state(setup)
    update = held | state | {"activations": activations(setup), "logits of a chunk": _logits(setup)}
    update |= {"weights to compute with": whole_weights(setup), "gradients being summed": _whole_gradients(setup)}
    phases = {"update": update}
    if setup.samples:
        sampling = held | {k: v for k, v in state.items() if k != "gradients"} | _sampler(setup)
        phases = {"sampling": sampling, **phases}
        if setup.engine == "vllm" and not setup.sleep:
            for parts in phases.values():
                parts["vLLM"] = engine_memory(setup)
        if setup.engine == "transformers" and setup.shard:
            for parts in phases.values():
                parts["copy for sampling"] = float(setup.width * setup.shape.parameters)
    return {phase: {part: size for part, size in parts.items() if size} for phase, parts in phases.items()}


def peak(phases: dict[str, Parts]) -> tuple[str, float]:
    """The phase that needs most, and its bytes."""
    return max(((phase, sum(parts.values())) for phase, parts in phases.items()), key=lambda x: x[1])


def main_memory(setup: Setup) -> float:
    """Bytes of the machine's main memory for one process's offloaded state and for a sleeping engine's weights."""
    asleep = 2.0 * setup.shape.parameters / setup.tensor_parallel if setup.sleep and setup.engine == "vllm" else 0.0
    return asleep + (setup.state / setup.shards if setup.offload else 0.0)


def disk(setup: Setup) -> float:
    """Bytes of the checkpoints kept and of the one being written: weights and moments."""
    size = MASTER * setup.shape.parameters + 2 * MASTER * setup.optimizers * setup.shape.trainable
    return float(size + setup.networks * 3 * MASTER * setup.shape.parameters) * (setup.keep_checkpoints + 1)


def activations(setup: Setup) -> float:
    """What a micro-batch keeps for the backward pass. With gradient checkpointing each layer keeps its input alone, and
    one layer at a time all of it. A critic or a reward model keeps as much as the policy."""
    shape, w = setup.shape, setup.width
    if setup.gradient_checkpointing:
        inputs = shape.layers * MASTER * shape.hidden
        return (1 + setup.networks) * (inputs * setup.micro_batch + _recomputed(setup))
    # with the ends of the model, and the workspace of the backward pass
    kept = shape.layers * _layer(setup) + 13 * shape.hidden + 3 * w * shape.intermediate
    return float((1 + setup.networks) * kept * setup.micro_batch)


def whole_weights(setup: Setup) -> float:
    """Weights in the precision of the pass. Sharded: two layers and the ends of the model, gathered. Else autocast
    keeps a bf16 copy of each to the end of the forward pass, or without gradient checkpointing of the backward pass.
    No layer is recomputed before that end, only the last one's feed-forward part is held: what it needs beyond a
    recomputed layer is counted."""
    shape, w = setup.shape, setup.width
    if setup.shard:
        return (1 + setup.networks) * w * (min(2, shape.layers) * shape.layer + shape.outside_layers)
    if not setup.bf16:
        return 0.0
    every = w * (shape.layers * shape.layer + shape.outside_layers)
    if setup.gradient_checkpointing:
        every += 4 * w * shape.intermediate * setup.micro_batch - _recomputed(setup)
    return (1 + setup.networks) * max(every, w * (shape.layer + shape.outside_layers))


def engine_memory(setup: Setup) -> float:
    """Bytes that vLLM takes while it samples."""
    if not setup.device.is_gpu:
        return 4.0 * setup.shape.parameters + CPU_CACHE
    return setup.gpu_memory * setup.device.memory


def rows_at_once(setup: Setup, prompt: float, response: float) -> int:
    """Responses that one engine decodes together: as many as its cache holds, up to its own limit; below 1 the longest
    does not fit."""
    shape, tokens = setup.shape, prompt + response / 2
    if setup.engine == "transformers":
        return min(setup.max_batch or 256, max(1, setup.prompts_per_step * setup.n // setup.ranks))
    memory = engine_memory(setup) if setup.engine == "vllm" else 0.9 * setup.device.memory
    free = setup.tensor_parallel * (memory - ENGINE_OVERHEAD) - 2.0 * shape.parameters
    free = free if setup.device.is_gpu else CPU_CACHE
    if free < 2.0 * shape.cache * (setup.max_prompt_length + setup.max_response_length):
        return 0
    own = 1024 if setup.device.memory > 70 * 2**30 and "a100" not in setup.device.name else 256  # vLLM's default
    return int(min(free / (2.0 * shape.cache * tokens), setup.max_batch or own))


def _trained(setup: Setup) -> float:
    """Parameters that optimizers update."""
    return setup.optimizers * setup.shape.trainable + setup.networks * setup.shape.parameters


def _state(setup: Setup) -> Parts:
    """Weights, gradients and moments of what is trained; nothing where they are offloaded but one layer at a time."""
    if setup.offload:
        return {}
    shape, extra = setup.shape, setup.networks * setup.shape.parameters
    moments = 2 * MASTER * (setup.optimizers * shape.trainable + extra)
    return {
        "weights": (_base(setup) + MASTER * extra) / setup.shards,
        "gradients": MASTER * (shape.trainable + extra) / setup.shards,
        "optimizer": moments / setup.shards,
    }


def _base(setup: Setup) -> float:
    """Bytes of the policy's weights."""
    if not setup.quantized:
        return float(MASTER * setup.shape.parameters)
    layers = setup.shape.parameters - setup.shape.outside_layers
    return NF4 * layers + MASTER * (setup.shape.outside_layers + setup.shape.trainable)


def _frozen(setup: Setup) -> Parts:
    """What stays all the time."""
    reference = 0 if setup.offload else setup.reference * _base(setup) / setup.shards
    own = {"CUDA": RUNTIME} if setup.device.is_gpu else {"Python and libraries": LIBRARIES}
    return own | {"reference": reference}


def _layer(setup: Setup) -> float:
    """Bytes that one layer keeps of a token."""
    shape, w = setup.shape, setup.width
    # Two norms in float32 with their input and its scaled form; their outputs, cast for each of five projections.
    norms = (16 + 10 if setup.bf16 else 16 + 8) * shape.hidden
    attention = 4 * w * shape.query  # queries, keys and values of every head, the output
    normed = (6 if setup.bf16 else 8) * (shape.query + shape.key_value) if shape.query_norm else 0
    mask = 0 if setup.flash else w * setup.longest
    return float(norms + attention + normed + 4 * w * shape.intermediate + mask)


def _recomputed(setup: Setup) -> float:
    """Bytes of a layer that is recomputed, with the workspace of its backward pass."""
    return (_layer(setup) + 2 * setup.width * setup.shape.intermediate) * setup.micro_batch


def _whole_gradients(setup: Setup) -> float:
    """Of several ranks: a layer's gradient as it is scattered in float32, and the head's, which waits for the end; or
    the buckets of all gradients (DDP)."""
    shape, networks = setup.shape, 1 + setup.networks
    if setup.ranks == 1:
        return 0.0
    if setup.shard:
        return networks * ((setup.width + MASTER) * shape.layer + setup.width * shape.embedding)
    return float(MASTER * (shape.trainable + setup.networks * shape.parameters))


def _logits(setup: Setup) -> float:
    """A chunk's logits and, of the head whose gradients are in closed form, its gradient and a share of it."""
    vocabulary = setup.shape.vocabulary
    chunk = CHUNK if setup.vocabulary else max(CHUNK_ELEMENTS // vocabulary, 1)
    copies = LOGITS + (2 if setup.frozen_in_update else 0)
    gradient = 0 if setup.vocabulary or setup.shape.trainable < setup.shape.parameters else 2 * setup.shape.embedding
    return float(MASTER * (copies * min(chunk, setup.micro_batch) * vocabulary + gradient))


def _sampler(setup: Setup) -> Parts:
    """While responses are drawn."""
    shape = setup.shape
    if setup.engine == "server":
        return {}
    if setup.engine == "vllm":
        return {"vLLM": engine_memory(setup)}
    rows = rows_at_once(setup, 0, 0)
    cache = setup.width * rows * shape.cache * setup.longest
    cast = 2.0 * shape.parameters if setup.bf16 and not setup.shard else 0.0
    return {
        "key-value cache": float(cache),
        "weights in bf16": cast,
        "logits of a batch": 12.0 * rows * shape.vocabulary,
    }
