"""How the LoRA adapters of a policy reach a vLLM engine: merged into the weights, or by themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from srft.errors import SrftError
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings
from srft.rollout.sampler import SamplerContext

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for (0.32)
HandOver = Annotated[
    Literal["merged", "adapters"], Field(description="LoRA merged into whole weights, or its adapters alone (small)")
]


def adapted_policy(context: SamplerContext) -> Policy | None:
    """The policy, where it has adapters that are handed over by themselves."""
    by_themselves = context.options and context.options.lora == "adapters"
    return context.policy if by_themselves and hasattr(context.policy.model, "peft_config") else None


def engine_rank(model: ModelSettings) -> int:
    """The rank that an engine must have room for."""
    assert model.lora is not None
    rank = model.lora.rank
    return next(room for room in RANKS if room >= rank)


def check_lora(hand_over: str, model: ModelSettings | None, where: str) -> None:
    """Raises SrftError where vLLM has no room for the model's adapters."""
    if hand_over == "adapters" and model and model.lora and model.lora.rank > RANKS[-1]:
        raise refused_adapters(f"rank {model.lora.rank} is above {RANKS[-1]}", where)


def refused_adapters(what: str, where: str) -> SrftError:
    """Of vLLM."""
    return SrftError(f"vLLM does not take these LoRA adapters: {what}", where=where, fix=f"{where}: merged")
