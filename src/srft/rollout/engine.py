"""The sampler of a live policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model, field_validator

from srft.errors import did_you_mean
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, pad_token_id, stop_token_ids
from srft.rollout.sampler import Sampler, SamplerContext
from srft.rollout.samplers import pick_sampler, samplers
from srft.section import Section


class EngineSettings(Section):
    """Which engine samples, and how much at once."""

    engine: str = Field("auto", description="transformers, vllm, server, …; auto: vLLM on a GPU where it is installed")
    max_batch: int | None = Field(
        None, gt=0, description="responses decoded together; 256 by transformers, vLLM decides by itself"
    )

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str) -> str:
        if engine not in (known := ["auto", *samplers()]):
            raise ValueError(f"unknown engine '{engine}'. {did_you_mean(engine, known)}")
        return engine

    def resolve(self, model: ModelSettings | None = None) -> str:
        """The name of the engine to use.

        Args:
            model: that it must be able to sample from; None: any.

        Raises:
            SrftError: it cannot run here.
        """
        sampler = pick_sampler(self.engine)
        if self.engine != "auto":
            sampler.check(self.options(sampler), model)
        return sampler.name

    def options(self, sampler: type[Sampler]) -> Any:
        """The engine's own."""
        return getattr(self, sampler.name, None)


if TYPE_CHECKING:
    SamplerSettings = EngineSettings
else:
    SamplerSettings = create_model(
        "SamplerSettings",
        __base__=EngineSettings,
        __doc__=EngineSettings.__doc__,
        **{name: (cls.Options, cls.Options()) for name, cls in samplers().items() if cls.Options is not None},
    )


def make_sampler(
    settings: SamplerSettings, policy: Policy, model: ModelSettings, tokenizer: Any, *, max_model_len: int
) -> Sampler:
    """The sampler of a live policy, with its present weights. Every training process calls it, and has its own.

    Args:
        model: where the policy's config comes from; an engine of its own is built from the same.
        max_model_len: tokens of a prompt and its response together, at most.

    Raises:
        SrftError: the engine cannot run here.
    """
    sampler_type = samplers()[settings.resolve(model)]
    context = SamplerContext(
        policy,
        model,
        stop_token_ids=stop_token_ids(tokenizer, policy.causal_lm),
        pad_token_id=pad_token_id(tokenizer),
        max_model_len=max_model_len,
        max_batch=settings.max_batch,
        options=settings.options(sampler_type),
    )
    sampler = sampler_type.build(context)
    policy.sync(sampler)
    return sampler
