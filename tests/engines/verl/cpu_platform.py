"""verl 0.9.1 on a machine without a GPU: a test fixture, loaded by VERL_USE_EXTERNAL_MODULES=cpu_platform with this folder on PYTHONPATH.

Ray is told of GPUs that do not exist (`ray_init.num_gpus`), so that verl places its workers as it would on real ones.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry, set_platform


class _Device(types.ModuleType):
    """`torch.cpu` with what verl asks of `torch.cuda`."""

    def __getattr__(self, name: str) -> Any:
        memory = psutil.virtual_memory()
        answers = {
            "is_available": True,
            "get_device_name": "CPU",
            "mem_get_info": (memory.available, memory.total),
            **dict.fromkeys(["memory_allocated", "memory_reserved"], 0),
            **dict.fromkeys(["max_memory_allocated", "max_memory_reserved"], 0),
            **dict.fromkeys(["empty_cache", "ipc_collect", "reset_peak_memory_stats", "set_device", "synchronize"]),
        }
        if name in answers:
            return lambda *_, **__: answers[name]
        if name in ("get_rng_state", "set_rng_state"):
            return lambda *state, **__: getattr(torch, name)(*state[:1])
        return getattr(torch.cpu, name)


@PlatformRegistry.register(platform="cpu")
class Cpu(PlatformBase):
    device_name = property(lambda self: "cpu")
    vendor_name = property(lambda self: "cpu")
    device_module = property(lambda self: _MODULE)

    def is_available(self) -> bool:
        return True

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...
    def synchronize(self, device_index: int | None = None) -> None: ...
    def set_allocator_settings(self, settings: str) -> None: ...
    def empty_cache(self) -> None: ...
    def profiler_start(self) -> None: ...
    def profiler_stop(self) -> None: ...
    def cudart(self) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if k.startswith("VLLM_CPU_")}


_MODULE = _Device("cpu_as_cuda")
set_platform(Cpu())
os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")  # verl's own override: FSDP is registered for cuda and npu alone
torch.cpu.get_device_name = lambda *_, **__: "CPU"  # type: ignore[attr-defined]
torch.Tensor.pin_memory = lambda self, *_, **__: self  # type: ignore[method-assign]  # a reference policy asks for it


def _group(module: Any) -> None:
    """torch refuses verl's "cpu:gloo,cpu:gloo"."""
    make = module.initialize_global_process_group_ray
    module.initialize_global_process_group_ray = lambda timeout_second=None, backend=None: make(
        timeout_second, backend or "gloo"
    )


def _receive(module: Any) -> None:
    """`.to("cpu")` copies nothing, so views of the shared-memory bucket would outlive it: clone them."""
    receive = module.BucketedWeightReceiver.receive_weights
    module.BucketedWeightReceiver.receive_weights = lambda self, on_bucket_received: receive(
        self, lambda weights, last: on_bucket_received([(name, x.clone()) for name, x in weights], last)
    )


def _unpacked(module: Any) -> None:
    """vLLM packs linear weights on a CPU and drops the originals; live weights need them, as in `rollout/samplers/vllm.py`."""
    module.dispatch_cpu_unquantized_gemm = lambda layer, remove_weight=False: setattr(
        layer, "cpu_linear", torch.nn.functional.linear
    )


class _AfterImport(importlib.abc.MetaPathFinder):
    """Changes a module once it is imported, and not before, as importing it here would be too early."""

    changes: ClassVar[dict[str, Callable[[Any], None]]] = {
        "verl.utils.distributed": _group,
        "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer": _receive,
        "vllm.model_executor.layers.utils": _unpacked,
    }

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in self.changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            self.changes[name](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _AfterImport())
for _name, _change in _AfterImport.changes.items():
    if _name in sys.modules:
        _change(sys.modules[_name])


def _version(name: str, known: Callable[[str], str] = importlib.metadata.version) -> str:
    """The distribution is called vllm-cpu; verl looks for vllm."""
    try:
        return known(name)
    except importlib.metadata.PackageNotFoundError:
        if name == "vllm":
            return known("vllm-cpu") + "+cpu"
        raise


importlib.metadata.version = _version
