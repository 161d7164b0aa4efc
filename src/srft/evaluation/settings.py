"""What an evaluation can be asked for: the `evaluation` section of a training recipe, and the recipe of `srft eval`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from srft.data.settings import ORIGIN_HELP, Columns, FewShot, TemplateName
from srft.evaluation.benchmarks import Measure
from srft.policy.load import ModelSettings
from srft.policy.placement import Precision
from srft.rollout.engine import SamplerSettings
from srft.section import Section, check_file_name
from srft.verify.settings import VerifySettings


class SamplingOverrides(Section):
    """How responses are drawn where it is not as the protocol says. None: the protocol's, or the benchmark's own."""

    n: int | None = Field(None, gt=0, description="responses per problem")
    temperature: float | None = Field(None, ge=0, description="0 is greedy")
    top_p: float | None = Field(None, gt=0, le=1, description="nucleus; 1 is the whole distribution")
    max_response_length: int | None = Field(None, gt=0, description="tokens")


class EvaluationSet(Section):
    """The user's own problems, in the columns that training data has."""

    path: str = Field(description=ORIGIN_HELP)
    split: str = Field("test", description="of a data set on the hub, or of a folder that holds several")
    options: dict[str, Any] = Field({}, description="as `data.options`")
    limit: int | None = Field(None, gt=0, description="only the first so many problems")
    columns: Columns = Field(Columns(), description="as `data.columns`")
    measure: Measure | None = Field(
        None,
        description="sampled answers, graded; the loss of its demonstrations; or both. If left out answers, and in "
        "training by a method that learns from demonstrations the loss of those that there are; it alone where nothing "
        "can be graded",
    )


class EvaluationSettings(Section):
    """What is evaluated, and how responses are drawn and graded."""

    benchmarks: list[str] = Field(
        [],
        description="`math500`, `math500:200x4` (200 problems, 4 samples), `mine.jsonl:50x2`, or `srft`, `psft`",
    )
    sets: dict[str, EvaluationSet] = Field({}, description="the user's own problems, by the name of their results")
    protocol: Literal["srft", "psft"] = Field("srft", description="whose sampling and templates: docs/evaluation.md")
    sampling: SamplingOverrides = SamplingOverrides()
    template: TemplateName | None = Field(
        None, description="the protocol's if left out; in training the data section's"
    )
    system: str | None = Field(None, description="as `data.system`; in training the data section's if left out")
    few_shot: FewShot | None = Field(None, description="as `data.few_shot`; in training the data section's if left out")
    extract: Literal["boxed", "last"] | None = Field(
        None,
        description="which answer counts: the boxed one alone, or failing that the last one stated; verify's if out",
    )
    grader: Literal["math", "oat"] | None = Field(None, description="of mathematical answers")
    limit: int | None = Field(None, gt=0, description="only the first so many problems of what names no number itself")
    statistics: bool = Field(False, description="entropy, branching factor and perplexity, by one more forward pass")
    data_dir: str | None = Field(None, description="folder with benchmark files; what it lacks comes from the hub")

    @field_validator("sets")
    @classmethod
    def _name_files(cls, sets: dict[str, EvaluationSet]) -> dict[str, EvaluationSet]:
        return {check_file_name(name): own for name, own in sets.items()}


class EvaluationRecipe(EvaluationSettings, SamplerSettings):
    """What `srft eval MODEL key=value …` is asked for."""

    model: ModelSettings
    statistics: bool = Field(True, description="entropy, branching factor and perplexity, by one more forward pass")
    precision: Precision = Field("auto", description="auto: bf16 on CUDA, else fp32")
    seed: int = 0
    max_batch: int | None = Field(
        None, gt=0, description="responses decoded together, which reach the disk together: 64, with vLLM 2048"
    )
    verify: VerifySettings = VerifySettings()
