"""The base of every recipe section: a frozen pydantic model, strict about its keys. A room defines the section that it
reads; `srft.recipe` puts them together."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Settings by name, with defaults; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
