"""Post-training for reasoning models: supervised and reinforcement fine-tuning in one stage.

from srft import load_recipe, train
run = train(load_recipe("quickstart", ["training.steps=2"]), out="runs/first")
run.metrics[-1]["reward"]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srft.errors import SrftError as SrftError
    from srft.objective import Responses as Responses
    from srft.objective import Tokens as Tokens
    from srft.objective import get_method as get_method
    from srft.objective import group_advantage as group_advantage
    from srft.objective import grpo as grpo
    from srft.objective import method as method
    from srft.objective import methods as methods
    from srft.objective import sft as sft
    from srft.objective import sft_rl as sft_rl
    from srft.objective import srft as srft
    from srft.recipe.load import load_recipe as load_recipe
    from srft.recipe.schema import Recipe as Recipe
    from srft.run.callbacks import Callback as Callback
    from srft.run.result import Run as Run
    from srft.run.train import train as train
    from srft.training.ending import StopTraining as StopTraining

    __version__: str

# Loaded when asked for: a verifier's worker and the command line import this package and must not pay for torch.
_HOMES = {
    "srft.errors": ("SrftError",),
    "srft.objective": (
        "Responses", "Tokens", "get_method", "group_advantage", "grpo", "method", "methods", "sft", "sft_rl", "srft",
    ),
    "srft.recipe.load": ("load_recipe",),
    "srft.recipe.schema": ("Recipe",),
    "srft.run.callbacks": ("Callback",),
    "srft.run.result": ("Run",),
    "srft.run.train": ("train",),
    "srft.training.ending": ("StopTraining",),
}  # fmt: skip
__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("srft")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'srft' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
