"""The base of every recipe section: a frozen pydantic model, strict about its keys. A room defines the section that it
reads; `srft.recipe` puts them together."""

from __future__ import annotations

from typing import Annotated, Any, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

LONGEST_NAME = 100  # characters


def check_file_name(name: str) -> str:
    """A name that files and folders are called by: no part of a path, nothing hidden, nothing that steers a terminal.

    Raises:
        ValueError: it is none.
    """
    if not name or not name.isprintable() or name[0] == "." or {*"/\\"} & {*name} or len(name) > LONGEST_NAME:
        shown = f"{name[:LONGEST_NAME]!r}" + "…" * (len(name) > LONGEST_NAME)
        raise ValueError(
            f"{shown} cannot name a file: it may not be empty, begin with a dot, hold / or \\ or characters that "
            f"cannot be printed, or be longer than {LONGEST_NAME} characters"
        )
    return name


FileName = Annotated[str, AfterValidator(check_file_name)]


class Section(BaseModel):
    """Settings by name, with defaults; an unknown key is an error, and so is NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_as_text(cls, values: Any) -> Any:
        """Text with commas is a list where a list is due: `trackers=wandb`, `betas=0.9,0.95`."""
        if not isinstance(values, dict):
            return values
        listed = {name for name, field in cls.model_fields.items() if get_origin(field.annotation) in (list, tuple)}
        return {
            name: [part.strip() for part in value.split(",") if part.strip()]
            if name in listed and isinstance(value, str)
            else value
            for name, value in values.items()
        }
