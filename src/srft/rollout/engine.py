"""The sampler of a live policy."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from srft.errors import did_you_mean
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, pad_token_id, stop_token_ids
from srft.rollout.sampler import Sampler, SamplerContext
from srft.rollout.samplers import pick_sampler, samplers
from srft.section import Section


class SamplerSettings(Section):
    """Which engine samples, and how much at once."""

    engine: str = Field("auto", description="transformers, vllm, …; auto: vLLM on a GPU where it is installed")
    max_batch: int | None = Field(
        None, gt=0, description="responses decoded together; 256 by transformers, vLLM decides by itself"
    )

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str) -> str:
        if engine not in (known := ["auto", *samplers()]):
            raise ValueError(f"unknown engine '{engine}'. {did_you_mean(engine, known)}")
        return engine

    def resolve(self, processes: int = 1) -> str:
        """The name of the engine to use.

        Raises:
            SrftError: it cannot run here.
        """
        return pick_sampler(self.engine, processes).name


def make_sampler(
    settings: SamplerSettings,
    policy: Policy,
    model: ModelSettings,
    tokenizer: Any,
    *,
    max_model_len: int,
    processes: int = 1,
) -> Sampler:
    """The sampler of a live policy, with its present weights.

    Args:
        model: where the policy's config comes from; an engine of its own is built from the same.
        max_model_len: tokens of a prompt and its response together, at most.
    """
    context = SamplerContext(
        policy,
        model,
        stop_token_ids=stop_token_ids(tokenizer, policy.causal_lm),
        pad_token_id=pad_token_id(tokenizer),
        max_model_len=max_model_len,
        max_batch=settings.max_batch,
    )
    sampler = pick_sampler(settings.engine, processes).build(context)
    policy.sync(sampler)
    return sampler
