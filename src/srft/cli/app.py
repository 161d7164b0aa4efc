"""What the commands share: Typer classes that start fast, the consoles, silence of libraries."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class LazyCoercion:
    """Typer makes a pydantic adapter for each parameter, one that is not given as well, which doubles the time that a
    command needs to start. This one is made for a value alone.

    Args:
        build: makes Typer's own.
    """

    build: Callable[[], Any]

    def __call__(self) -> LazyCoercion:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value in the parameter's type."""
        absent = value is None and param.nargs == 1 and not getattr(param, "multiple", False)
        return None if absent else self.build().coerce(value, param=param, ctx=ctx)


def lazily(params: list[Any]) -> list[Any]:
    """The parameters, with their coercion made when it is needed; of a Typer without such coercion as they are."""
    for param in params:
        build = getattr(param, "get_runtime_param", None)
        if build is not None and not isinstance(build, LazyCoercion):
            param.get_runtime_param = LazyCoercion(build)
    return params


class Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        """As Typer's, coerced when needed."""
        return lazily(super().get_params(ctx))


class Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        """As Typer's, coerced when needed."""
        return lazily(super().get_params(ctx))


@cache
def console() -> Console:
    """Where results go; lines are not broken in a pipe."""
    from srft.console import SafeConsole

    return SafeConsole(soft_wrap=not sys.stdout.isatty())


def quiet() -> None:
    """Libraries' own progress bars and warnings stay out of the live display, unless SRFT_DEBUG asks for them."""
    import logging
    import warnings

    if not os.environ.get("SRFT_DEBUG"):
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is first imported
    from transformers.utils import logging as transformers_logging

    if os.environ.get("SRFT_DEBUG"):
        return
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
