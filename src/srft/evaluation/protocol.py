"""How the papers evaluate: sampling, lengths, templates, samples per problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from srft.data.settings import FewShot, PromptSettings
from srft.evaluation.benchmarks import Choice
from srft.evaluation.settings import EvaluationSettings
from srft.rollout.sampler import SamplingParams


@dataclass(frozen=True)
class Protocol:
    """How a paper evaluates.

    Args:
        sampling: `n` is for what has no number of its own; the other values hold for every benchmark.
        template: of the prompts, by name.
        grader: of mathematical answers, "math" or "oat".
        extract: which answer counts: the "boxed" one alone, or failing that the "last" one that is stated.
        n: of each problem, where the user asks for a number; else each benchmark's own.
        system, few_shot: of the prompts, where the user gives them.
    """

    name: str
    sampling: SamplingParams
    template: str
    grader: str = "math"
    extract: str = "boxed"
    n: int | None = None
    system: str | None = None
    few_shot: FewShot | None = None

    @property
    def prompts(self) -> PromptSettings:
        """How problems are put to the model."""
        return PromptSettings(template=self.template, system=self.system, few_shot=self.few_shot)

    def sampling_of(self, choice: Choice) -> SamplingParams:
        """How a benchmark's responses are drawn. `n` is what the choice says, else what the user asked for, else the
        benchmark's own. A benchmark's own length holds unless this protocol's is lower."""
        benchmark = choice.benchmark
        own_n = benchmark.samples.get(self.name) if benchmark else None
        own_length = benchmark.max_response_length.get(self.name) if benchmark else None
        length = self.sampling.max_response_length
        return SamplingParams(
            n=choice.samples or self.n or own_n or self.sampling.n,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            max_response_length=min(own_length or length, length),
        )

    def to_json(self) -> dict[str, Any]:
        """As it is recorded; `n` is null where each benchmark has its own."""
        return {
            "name": self.name, **self.sampling.model_dump(), "n": self.n,
            **self.prompts.model_dump(mode="json"), "grader": self.grader, "extract": self.extract,
        }  # fmt: skip


PROTOCOLS: Mapping[str, Protocol] = {
    # SRFT §5.1, App. B; its templates are Figs. A3, A4
    "srft": Protocol("srft", SamplingParams(n=1, temperature=0.6, top_p=1.0, max_response_length=8192), "srft"),
    # PSFT §4.1.2; its system prompt (A.2) says the same as qwen-math's
    "psft": Protocol("psft", SamplingParams(n=1, temperature=0.7, top_p=0.95, max_response_length=10240), "qwen-math"),
}


def resolve_protocol(
    settings: EvaluationSettings,
    *,
    prompts: PromptSettings | None = None,
    max_response_length: int | None = None,
    extract: str | None = None,
) -> Protocol:
    """The protocol with what the settings change.

    Args:
        prompts, max_response_length, extract: in place of the protocol's, where the settings say nothing.
    """
    preset, asked = PROTOCOLS[settings.protocol], settings.sampling
    prompts = prompts or preset.prompts
    changes = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "max_response_length": asked.max_response_length or max_response_length,
    }
    return replace(
        preset,
        sampling=preset.sampling.model_copy(update={k: v for k, v in changes.items() if v is not None}),
        template=settings.template or prompts.template,
        system=prompts.system if settings.system is None else settings.system,
        few_shot=settings.few_shot or prompts.few_shot,
        grader=settings.grader or preset.grader,
        extract=settings.extract or extract or preset.extract,
        n=asked.n,
    )
