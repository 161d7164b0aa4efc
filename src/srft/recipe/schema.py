"""The recipe: the rooms' sections put together, strict about every key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, create_model, field_validator

from srft.data.settings import DataSettings
from srft.objective.registry import Method, Need, get_method
from srft.policy.load import ModelSettings
from srft.recipe.explain import explain
from srft.rollout.prompting import strategies
from srft.rollout.sampler import SamplingParams
from srft.rollout.settings import RolloutSettings
from srft.section import Section
from srft.training.hooks import hook_types
from srft.training.settings import (
    AdvantageSettings,
    LoggingSettings,
    OptimSettings,
    SelectionSettings,
    TrainingEvaluation,
    TrainingSettings,
)
from srft.verify.settings import VerifySettings


class DataSection(DataSettings):
    """What to train on; with `selection` the policy's own samples take the demonstrations' place."""

    selection: SelectionSettings | None = None


class MethodSection(Section):
    """The method by name, and its own options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(
        "srft", description="`srft methods` lists them, `srft methods NAME` its options, which stand beside it"
    )
    preset: str | None = Field(None, description="published values of the method's options, by name")
    file: str | None = Field(None, description="a Python file of your own that registers the method")

    @property
    def options(self) -> dict[str, Any]:
        """As the recipe gives them."""
        return dict(self.model_extra or {})


if TYPE_CHECKING:
    HooksSection = Section
else:
    HooksSection = create_model(
        "HooksSection",
        __base__=Section,
        __doc__="What one algorithm alone needs of a step, by name; null leaves a hook out.",
        **{name: (hook.Options | None, None) for name, hook in hook_types().items() if hook.Options is not None},
    )


class Recipe(Section):
    """Everything that a run is made of."""

    name: str = Field("run", description="of the run directory if --out is left out; the recipe's own name")
    model: ModelSettings
    data: DataSection
    rollout: RolloutSettings = RolloutSettings()
    verify: VerifySettings = VerifySettings()
    method: MethodSection = MethodSection()
    advantage: AdvantageSettings = AdvantageSettings()
    hooks: HooksSection = HooksSection()
    optim: OptimSettings = OptimSettings()
    training: TrainingSettings
    evaluation: TrainingEvaluation = TrainingEvaluation()
    logging: LoggingSettings = LoggingSettings()
    stages: tuple[Recipe, ...] = Field((), description="one after another, each a change to the recipe above it")
    _notes: tuple[str, ...] = PrivateAttr(())

    @field_validator("name")
    @classmethod
    def _name_of_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w .+-]{0,99}", name):
            raise ValueError(
                "a name begins with a letter or digit and has these, spaces and . _ + - alone, 100 at most"
            )
        return name

    @property
    def notes(self) -> tuple[str, ...]:
        """What overrides meant beyond their own keys, for the user to read."""
        return self._notes

    def with_notes(self, *notes: str) -> Recipe:
        """The recipe with these notes."""
        copy = self.model_copy()
        copy._notes = notes
        return copy

    def __eq__(self, other: object) -> bool:
        """The same sections; notes play no part."""
        return isinstance(other, Recipe) and dict(self) == dict(other)

    @property
    def parts(self) -> tuple[Recipe, ...]:
        """The stages, or the recipe itself where it has none."""
        return self.stages or (self,)

    @property
    def title(self) -> str:
        """Its methods, e.g. "sft → grpo"."""
        return " → ".join(part.method.name for part in self.parts)

    @property
    def loss(self) -> Method:
        """The registered method this recipe names."""
        return get_method(self.method.name, self.method.file)

    @property
    def method_options(self) -> dict[str, Any]:
        """Every option of the method, defaults filled in, checked against the method's signature."""
        return check_options(self.loss, self.method.options)

    @property
    def needs(self) -> frozenset[Need]:
        """What the method, the shaping of its advantage and the sampler's correction need."""
        needs = self.loss.needs(self.method_options)
        if "rollouts" in needs and self.advantage.ppl:
            needs |= {"means"}
        if "rollouts" in needs and self.rollout.correction != "none":
            needs |= {"old_logp"}
        return needs

    @property
    def reads_demonstrations(self) -> bool:
        """Whether the data must hold demonstrations."""
        hooks = [hook for name, hook in hook_types().items() if getattr(self.hooks, name, None) is not None]
        asked = "demonstrations" in self.needs or any(hook.reads_demonstrations for hook in hooks)
        strategy = strategies()[self.rollout.prompting.strategy]
        return (asked and self.data.selection is None) or strategy.reads_demonstrations

    @property
    def rollouts_per_prompt(self) -> int:
        """n, less the demonstrations' places where these replace rollouts."""
        replaced = self.rollout.demonstrations if self.rollout.demo_slots == "replace" else 0
        return self.rollout.n - (replaced if "demonstrations" in self.needs else 0)

    @property
    def sampling(self) -> SamplingParams:
        """How a step's rollouts are drawn."""
        values = {name: getattr(self.rollout, name) for name in SamplingParams.model_fields}
        return SamplingParams(**values | {"n": self.rollouts_per_prompt})

    def to_yaml(self) -> str:
        """The whole recipe with its defaults."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def check_options(method: Method, options: dict[str, Any]) -> dict[str, Any]:
    """The method's options with defaults filled in.

    Raises:
        SrftError: an unknown option, or a value of another type.
    """
    fields: dict[str, Any] = dict(method.options)
    config = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)
    schema = create_model(f"{method.name} options", __config__=config, **fields)
    try:
        return dict(schema.model_validate(options))
    except ValidationError as error:
        raise explain(error, "method", fields) from None
