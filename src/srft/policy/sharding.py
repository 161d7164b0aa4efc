"""A network in shards by PyTorch's FSDP2: each process keeps a share of every weight, gradient and optimizer state, and
a layer's weights are whole only while it computes."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from srft.policy.forward import Policy


def shard(
    network: nn.Module, device: torch.device, dtype: torch.dtype | None = None, *, offload: bool = False
) -> nn.Module:
    """The network, sharded in place over all processes; every one of them must call it.

    Each decoder layer is a unit of its own. Embedding, last norm and head are the network's, whole from its forward
    pass to the end of its backward pass, so that the head may be read in chunks.

    Args:
        network: whole in the first process; on the meta device in the others, which get their shards from the first one
            tensor by tensor.
        device: where it computes.
        dtype: of the computation and of the weights while they are whole; master weights, gradient sums and optimizer
            stay float32. None: float32 throughout.
        offload: keep the shards in the CPU's memory, gradients and optimizer included.
    """
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (torch.distributed.get_world_size(),)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
        "offload_policy": CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy(),
    }
    for unit in (*_decoder_layers(network), network):
        _receive(unit, device)
        fully_shard(unit, **options)
    if hasattr(network, "packed"):  # which the first process alone could try
        network.packed = broadcast_object_list([network.packed])[0]
    if isinstance(network, Policy):
        register_fsdp_forward_method(network, "predicting")
    return network


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return isinstance(network, FSDPModule)


def to_shards(network: nn.Module) -> None:
    """Give up the weights that a forward pass without a backward pass has left whole."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole_weights(policy: Policy) -> dict[str, Any]:
    """What `Policy.save` writes, whole, on the CPU: of a sharded policy in the first process, empty in the others, and
    every one must ask; else a copy."""
    adapters_alone = hasattr(policy.model, "peft_config")
    if is_sharded(policy):
        to_shards(policy)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapters_alone)
        weights = get_model_state_dict(policy.model, options=options)
    else:
        own = policy.model.state_dict().items()
        kept = {name: tensor for name, tensor in own if not adapters_alone or "lora_" in name}
        weights = {name: tensor.to("cpu", copy=True) for name, tensor in kept.items()}
    names = dict(policy.model.named_parameters(remove_duplicate=False))
    tied = names.keys() - dict(policy.model.named_parameters()).keys()
    return {name: weight for name, weight in weights.items() if name not in tied}


def whole_copy(policy: Policy, empty: Any) -> Policy:
    """A policy to sample from and to score with, whole in this process; it takes the present weights by `policy.sync`.

    Args:
        policy: sharded.
        empty: a causal LM of the same shape, without adapters, on the meta device.
    """
    buffers = dict(policy.causal_lm.named_buffers())
    copy = Policy(empty).requires_grad_(False).to_empty(device=next(iter(buffers.values())).device).eval()
    copy.packed = policy.packed  # which was tried on weights
    copy.model.tie_weights()
    copy.model.generation_config = policy.causal_lm.generation_config
    for name, buffer in copy.model.named_buffers():
        buffer.copy_(buffers[name])
    policy.sync(copy)
    return copy


def _decoder_layers(network: nn.Module) -> list[nn.Module]:
    names = {name for module in network.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in network.modules() if type(module).__name__ in names]


def _receive(unit: nn.Module, device: torch.device) -> None:
    """Put the unit's tensors, but for those in shards already, onto the device with the first process's values."""
    received: dict[Tensor, Tensor] = {}
    for module in unit.modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if isinstance(tensor, DTensor):
                continue
            if tensor not in received:  # else it is tied to one before
                value = torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.detach().to(device)
                torch.distributed.broadcast(value := value.contiguous(), src=0)
                is_weight = isinstance(tensor, nn.Parameter)
                received[tensor] = nn.Parameter(value, tensor.requires_grad) if is_weight else value
            setattr(module, name, received[tensor])
