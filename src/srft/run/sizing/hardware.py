"""GPUs by their data sheets, and this machine by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import psutil
import torch

from srft.errors import SrftError, did_you_mean

GB, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Device:
    """What one training process computes on.

    Args:
        name: as `srft plan --gpu` takes it, e.g. "h100-80".
        memory: bytes.
        flops: matrix products a second at best, in FLOP/s: dense bf16 (fp16 where a GPU has no bf16), without sparsity.
        bandwidth: of its memory, bytes a second.
        link: to its neighbours in a machine, bytes a second in one direction.
        network: of the machine to others, bytes a second in one direction.
        is_gpu: False for this machine's processors.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    network: float
    is_gpu: bool = True


def _gpu(name: str, gb: float, tflops: float, tb_per_s: float, link_gb_per_s: float) -> Device:
    # Memory is printed in GB and counted in GiB; the driver keeps some of it: "80 GB" shows 79 GiB.
    # Eight adapters of 400 Gbit/s where GPUs have NVLink or the like, as in an HGX machine; else one of 100.
    network = 400 if link_gb_per_s > 100 else 12.5
    return Device(name, gb * 2**30 * 0.985, tflops * TERA, tb_per_s * TERA, link_gb_per_s * GB, network * GB)


# Vendors' data sheets: memory (GB), dense bf16 TFLOP/s (half of what is printed "with sparsity"), memory bandwidth
# (TB/s), NVLink, Infinity Fabric or PCIe in one direction (GB/s). NVIDIA: A100 (DS 2021), H100, H200, B200 (Blackwell
# HGX), L40S, L4, A10G (AWS G5), A6000, T4, RTX 3090/4090 (GA102 and Ada whitepapers, fp32 accumulation); AMD: MI300X.
GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("a100-40", 40, 312, 1.555, 300),
        _gpu("a100-80", 80, 312, 2.039, 300),
        _gpu("h100-80", 80, 989, 3.35, 450),
        _gpu("h200", 141, 989, 4.8, 450),
        _gpu("h20", 96, 148, 4.0, 450),
        _gpu("b200", 180, 2250, 8.0, 900),
        _gpu("gb200", 186, 2500, 8.0, 900),
        _gpu("l40s", 48, 362, 0.864, 32),
        _gpu("l4", 24, 121, 0.300, 32),
        _gpu("a10g", 24, 70, 0.600, 32),
        _gpu("rtx-a6000", 48, 155, 0.768, 32),
        _gpu("rtx4090", 24, 165, 1.008, 32),
        _gpu("rtx3090", 24, 71, 0.936, 32),
        _gpu("t4", 16, 65, 0.320, 16),
        _gpu("mi300x", 192, 1307, 5.3, 448),
    )
}


def find_gpu(name: str) -> Device:
    """The GPU of this name.

    Raises:
        SrftError: it is not in the table.
    """
    if name not in GPUS:
        raise SrftError(f"no GPU '{name}' in the table", where="--gpu", fix=did_you_mean(name, GPUS))
    return GPUS[name]


def this_machine(processes: int = 1) -> Device:
    """What one of the training processes has here: the first GPU's free memory, or an even share of the free main
    memory; the rates of large matrix products and of a copy, measured once in about a second."""
    on_gpu = torch.cuda.is_available()
    memory = float(torch.cuda.mem_get_info()[0]) if on_gpu else psutil.virtual_memory().available / processes
    name = torch.cuda.get_device_name() if on_gpu else "this machine's CPU"
    flops, bandwidth = measured_rates()
    link = 32 * GB if on_gpu else bandwidth / 2
    return Device(name, memory, flops, bandwidth, link, link, is_gpu=on_gpu)


@cache
def measured_rates() -> tuple[float, float]:
    """FLOP/s of a product of large matrices, and bytes a second that a copy reads and writes, on this machine."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    x = torch.randn(1024, 1024, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    source = torch.empty(2**24, device=device)
    target = torch.empty_like(source)
    return 2 * 1024**3 / _seconds(lambda: x @ x), 2 * source.nbytes / _seconds(lambda: target.copy_(source))


def _seconds(action: Callable[[], torch.Tensor], repeats: int = 10) -> float:
    """Of the fastest call: others may be at work on the machine."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        float(action().view(-1)[0])  # waits for a GPU
        times.append(time.perf_counter() - began)
    return min(times)
