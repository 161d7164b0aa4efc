"""Where a run is shown, and the silence of libraries around it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from rich.console import Console
from transformers.utils import logging as transformers_logging

from srft.training.bar import in_notebook


def default_console() -> Console | None:
    """Standard output in a notebook and at Python's prompt; None in a script."""
    if in_notebook():
        return Console(force_jupyter=False, force_terminal=False)
    return Console() if hasattr(sys, "ps1") else None


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars and warnings of libraries for a while, unless SRFT_DEBUG asks for them."""
    if os.environ.get("SRFT_DEBUG"):
        yield
        return
    accelerate = logging.getLogger("accelerate")
    level, verbosity = accelerate.level, transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    of_datasets = not datasets.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerate.setLevel(logging.ERROR)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            accelerate.setLevel(level)
            transformers_logging.set_verbosity(verbosity)
            if bars:
                transformers_logging.enable_progress_bar()
            if of_datasets:
                datasets.enable_progress_bars()
