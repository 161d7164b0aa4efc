"""The `rollout` section of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Union

from pydantic import Field, field_validator, model_validator

from srft.objective.correction import Correction
from srft.rollout.engine import SamplerSettings
from srft.rollout.prompting import Prompting, strategies
from srft.rollout.sampler import SamplingParams

if TYPE_CHECKING:
    PromptingOptions = Any
else:
    PromptingOptions = Union[tuple(strategy.Options for strategy in strategies().values())]  # noqa: UP007


class RolloutSettings(SamplingParams, SamplerSettings):
    """How a step's responses are drawn, and what else is in the group."""

    temperature: float = Field(1.0, gt=0, description="of rollouts (SRFT App. B: 1.0)")
    demonstrations: int = Field(1, gt=0, description="demonstrations per prompt")
    demo_slots: Literal["add", "replace"] = Field("add", description="n rollouts + demos, or n in all (LUFFY's code)")
    correction: Literal["none"] | Correction = Field(
        "none", description="of a sampler that is not the policy: truncated importance sampling, or a mask past the cap"
    )
    correction_cap: float = Field(2.0, gt=0, description="π/π_sampler beyond which a token is truncated or masked")
    prompting: PromptingOptions = Field(
        Prompting.Options(),
        discriminator="strategy",
        description="what the policy is asked: a strategy and its options",
    )

    @model_validator(mode="after")
    def _correctable(self) -> RolloutSettings:
        if self.correction != "none" and self.top_p < 1:
            raise ValueError("`correction` needs the whole distribution: top_p 1")
        return self

    @field_validator("prompting", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """Options without a strategy are those of the plain one."""
        return {"strategy": Prompting.name, **value} if isinstance(value, dict) else value
