"""The `data` section of a recipe, and what evaluations share of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from srft.data.template import check_template_name
from srft.section import Section

TemplateName = Annotated[str, AfterValidator(check_template_name)]
TEMPLATE_HELP = "srft, qwen-math, assistant, chat, none, or a file of one's own (path.jinja)"
ORIGIN_HELP = "file, folder, `srft:…`, `reasoning-gym:TASK` or hub id"


class Columns(Section):
    """Which column holds what, where the names are not known ones (docs/data.md)."""

    prompt: str | None = Field(None, description="text, or messages")
    answer: str | None = Field(None, description="the gold answer")
    demonstration: str | None = Field(None, description="text, a list of texts, or messages")
    rejected: str | None = Field(None, description="the worse response of a preference pair")
    system: str | None = Field(None, description="the system message")
    source: str | None = Field(None, description="the data set that a row comes from")


class FewShot(Section):
    """Solved examples in front of every prompt."""

    path: str | None = Field(None, description="examples in a file, read as training data is")
    rows: tuple[dict[str, Any], ...] = Field((), description="or the examples themselves")
    columns: Columns = Columns()
    count: int | None = Field(None, gt=0, description="only the first so many")


class PromptSettings(Section):
    """How a problem is put to the policy."""

    template: TemplateName = Field("srft", description=TEMPLATE_HELP)
    system: str | None = Field(
        None, description="the system message, in place of the template's and the rows' own; empty for none"
    )
    few_shot: FewShot | None = None


class MixedPath(Section):
    """One path of a mix. What it leaves out is as in the `data` section."""

    path: str = Field(description=ORIGIN_HELP)
    weight: float = Field(
        1.0, gt=0, description="how often an epoch holds each of its rows; of 0.5 a half of them, drawn by the seed"
    )
    source: str | None = Field(None, description="the data set of its rows, in place of what they name (verify.grader)")
    split: str | None = Field(None, description="as `data.split`")
    options: dict[str, Any] | None = Field(None, description="as `data.options`")
    limit: int | None = Field(None, gt=0, description="as `data.limit`")
    columns: Columns | None = None


class DataSettings(PromptSettings):
    """What to train on, and how it is put to the policy."""

    path: str | None = Field(None, description=ORIGIN_HELP)
    mix: tuple[MixedPath, ...] = Field((), description="several paths, each with a weight, in place of `path`")
    split: str = Field("train", description="of a data set on the hub, or of a folder that holds several")
    options: dict[str, Any] = Field({}, description="of the hub (`name`, `revision`) or of a generated task")
    limit: int | None = Field(None, gt=0, description="only the first so many problems (of each path)")
    columns: Columns = Columns()
    max_prompt_length: int = Field(1024, gt=0, description="tokens; a longer prompt is an error")
    long_demonstrations: Literal["truncate", "drop"] = Field(
        "truncate", description="what becomes of those over rollout.max_response_length"
    )
    bad_answers: Literal["error", "drop"] = Field("error", description="answers that do not grade equal to themselves")

    @model_validator(mode="after")
    def _one_origin(self) -> DataSettings:
        if self.path is not None and self.mix:
            raise ValueError("give one of `path` and `mix`, and set the other to null")
        return self

    @property
    def origin(self) -> str:
        """Where the problems come from, for messages."""
        return " + ".join(part.path for part in self.mix) or str(self.path)
