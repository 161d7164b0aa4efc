"""The `data` section of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from srft.section import Section


class DataSettings(Section):
    """What to train on, and how it is put to the policy."""

    path: str = Field(description="file, `srft:…`, `reasoning-gym:TASK` or hub id")
    split: str = Field("train", description="of a data set on the hub")
    options: dict[str, Any] = Field({}, description="of the hub (`name`) or of a generated task")
    limit: int | None = Field(None, gt=0, description="take only the first so many problems")
    template: Literal["srft", "qwen-math", "assistant", "chat", "none"] = Field(
        "srft",
        description="how a question is put: SRFT's prompt (App. B), Qwen's, PSFT's, the chat template alone, bare",
    )
    max_prompt_length: int = Field(1024, gt=0, description="tokens; a longer prompt is an error")
    long_demonstrations: Literal["truncate", "drop"] = Field(
        "truncate", description="what becomes of those over rollout.max_response_length"
    )
    bad_answers: Literal["error", "drop"] = Field("error", description="answers that do not grade equal to themselves")
