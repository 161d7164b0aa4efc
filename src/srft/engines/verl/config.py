"""The recipe as verl's configuration."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from srft.data.load import resolve_path
from srft.errors import SrftError
from srft.recipe.schema import Recipe

ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
REF = "actor_rollout_ref.ref"
PREFIX = "verl."

# What verl is told whatever the recipe says: the loop, its data and its records are ours.
FIXED: dict[str, Any] = {
    "trainer.logger": [],
    "trainer.resume_mode": "disable",
    "algorithm.adv_estimator": "grpo",  # which has no critic; advantages are the method's own
    "reward.num_workers": 1,
    f"{ACTOR}.use_dynamic_bsz": True,
    f"{ACTOR}.optim.lr_scheduler_type": "constant",  # the loop sets the learning rate of every update
    f"{ACTOR}.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
    f"{ACTOR}.checkpoint.load_contents": ["model", "optimizer", "extra"],
    f"{ROLLOUT}.name": "vllm",
    f"{ROLLOUT}.n": 1,
    f"{ROLLOUT}.tensor_model_parallel_size": 1,
    f"{ROLLOUT}.load_format": "auto",
}

# The recipe's key → verl's keys, from the value in the recipe.
TRANSLATED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "model.path": lambda path: {f"{MODEL}.path": resolve_path(path)},
    "model.config": lambda changes: {},  # see `settings`: in files that verl and vLLM read
    "model.attention": lambda name: _attention(name or ("flash_attention_2" if _has_flash() else "sdpa")),
    "model.gradient_checkpointing": lambda on: {f"{MODEL}.enable_gradient_checkpointing": on},
    "model.trust_remote_code": lambda on: {f"{MODEL}.trust_remote_code": on},
    "rollout.max_response_length": lambda n: {"data.max_response_length": n},
    "rollout.max_batch": lambda n: {} if n is None else {f"{ROLLOUT}.max_num_seqs": n},
    "rollout.vllm.gpu_memory": lambda share: {f"{ROLLOUT}.gpu_memory_utilization": share},
    "rollout.vllm.sleep": lambda on: {f"{ROLLOUT}.free_cache_engine": on},
    "data.max_prompt_length": lambda n: {"data.max_prompt_length": n},
    "training.prompts_per_step": lambda n: {"data.train_batch_size": n, f"{ACTOR}.ppo_mini_batch_size": n},
    "training.tokens_per_micro_batch": lambda n: {f"{ACTOR}.ppo_max_token_len_per_gpu": n},
    "training.offload": lambda on: {f"{ACTOR}.fsdp_config.offload_policy": on},
    "training.precision": lambda name: _precision("fp32" if name == "fp32" else "bf16"),
    "training.seed": lambda seed: {f"{ROLLOUT}.seed": seed % 2**31, f"{ACTOR}.fsdp_config.seed": seed % 2**31},
    "optim.weight_decay": lambda x: {f"{ACTOR}.optim.weight_decay": x},
    "optim.betas": lambda x: {f"{ACTOR}.optim.betas": list(x)},
    "optim.max_grad_norm": lambda x: {f"{ACTOR}.optim.clip_grad": x},
    "optim.lr": lambda x: {f"{ACTOR}.optim.lr": x},
}  # fmt: skip


def settings(recipe: Recipe, longest_sequence: int, changed_config: Path | None = None) -> dict[str, Any]:
    """verl's keys and values for one stage.

    Args:
        longest_sequence: tokens that a prompt and its response may take.
        changed_config: a folder with the model's config.json, where the recipe changes it.
    """
    found = dict(FIXED)
    for key, translate in TRANSLATED.items():
        found |= translate(_value(recipe, key))
    tokens = f"{ACTOR}.ppo_max_token_len_per_gpu"
    found[tokens] = max(found[tokens], longest_sequence)  # verl refuses a sequence beyond it, our loop lets it go alone
    found[f"{ROLLOUT}.max_model_len"] = longest_sequence
    found[f"{ROLLOUT}.max_num_batched_tokens"] = max(8192, longest_sequence)
    found[f"{ACTOR}.use_kl_loss"] = "reference" in recipe.needs  # verl's word for having a reference policy
    if changed_config is not None:
        found[f"{MODEL}.hf_config_path"] = str(changed_config.absolute())
        found[f"{ROLLOUT}.engine_kwargs.vllm.hf_config_path"] = str(changed_config.absolute())
    return found


def compose_config(found: Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
    """verl's whole configuration.

    Args:
        found: from `settings`.
        overrides: `key=value` of verl's own, over what the recipe says, in Hydra's grammar.

    Raises:
        SrftError: verl has no such key.
    """
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_module("verl.trainer.config", version_base=None):
            strategy = [] if any(_key(text) == "model_engine" for text in overrides) else [f"{ACTOR}.strategy=fsdp2"]
            config = compose("ppo_trainer", [*strategy, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        message = str(error.__cause__ or error).strip().splitlines()[0]
        raise SrftError(
            f"verl does not take it: {message}", where="verl.key=value", fix="Its keys: verl/trainer/config/*.yaml."
        ) from None
    chosen = {_key(text) for text in overrides}
    sharded = config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2")
    with open_dict(config):
        for key, value in found.items():
            if key not in chosen and (sharded or "fsdp_config" not in key):
                OmegaConf.update(config, key, value, force_add=True)
    return config


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the recipe, and those of verl (`verl.key=value`) without their prefix."""
    recipe = [word for word in words if not word.startswith(PREFIX)]
    return recipe, [word.removeprefix(PREFIX) for word in words if word.startswith(PREFIX)]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _value(recipe: Recipe, key: str) -> Any:
    return reduce(getattr, key.split("."), recipe)


def _has_flash() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def _attention(name: str) -> dict[str, Any]:
    # Sequences one behind the other need an attention that keeps them apart; with another one verl pads them.
    packed = name.startswith("flash")
    return {f"{MODEL}.override_config.attn_implementation": name, f"{MODEL}.use_remove_padding": packed}


def _precision(dtype: str) -> dict[str, Any]:
    policy = {"param_dtype": dtype, "reduce_dtype": "fp32"}  # float32 master weights
    return {
        f"{ACTOR}.fsdp_config.mixed_precision": policy,
        f"{REF}.fsdp_config.mixed_precision": policy,  # else KL to an equal reference would not begin at 0
        f"{ROLLOUT}.dtype": {"fp32": "float32", "bf16": "bfloat16"}[dtype],
    }
