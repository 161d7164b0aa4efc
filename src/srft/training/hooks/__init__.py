"""Hooks: what one algorithm alone needs of a step. A hook is one file of this folder; a recipe's `hooks` section, or
what the method declares, puts it into the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from accelerate import Accelerator

from srft.data.tokenize import Prompt
from srft.discover import discover
from srft.objective.registry import Method, Need
from srft.rollout.collector import Collector
from srft.section import Section
from srft.training.batches import Batcher
from srft.training.collect import CollectedStep, Draw
from srft.training.update import TrainedNetwork, Updater

History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class HookContext:
    """What a hook may build on.

    Args:
        method: of the stage, with its `method_options`.
        make_updater: an updater of the policy with an optimizer of its own, from a method's name and a learning rate
            (None: the recipe's).
        prompts: all that are trained on.
        demonstrations: of each prompt at most.
        seed: the run's.
        first_step: steps of the run before this stage.
    """

    method: Method
    method_options: Mapping[str, Any]
    make_updater: Callable[[str, float | None], Updater]
    collector: Collector
    batcher: Batcher
    accelerator: Accelerator
    prompts: Sequence[Prompt]
    demonstrations: int
    seed: int
    first_step: int


class Hook:
    """A hook; this one does nothing, which each of its methods may keep.

    Attributes:
        name: the key in a recipe's `hooks`.
        reads_demonstrations: whether it needs the data's demonstrations.
        Options: its settings; None where the method's declaration alone asks for it.
    """

    name: ClassVar[str]
    reads_demonstrations: ClassVar[bool] = False
    Options: ClassVar[type[Section] | None] = None

    def __init__(self, options: Any, context: HookContext) -> None:
        pass

    @staticmethod
    def declared_by(method: Method) -> bool:
        """Whether the method itself asks for the hook."""
        return False

    def needs(self, step: int, needs: frozenset[Need], history: History) -> frozenset[Need]:
        """What this step of the stage collects; `history` holds the metrics of the steps before it."""
        return needs

    def collect(self, draw: Draw, count: int, needs: frozenset[Need]) -> CollectedStep:
        """`count` groups, drawn by `draw`."""
        return draw(count)

    def after_update(self, step: int, collected: CollectedStep, metrics: Mapping[str, float]) -> dict[str, float]:
        """What is done after the step's updates, whose metrics (and those of the responses) are given. Returns more."""
        return {}

    def networks(self) -> dict[str, TrainedNetwork]:
        """What it trains, by name; saved and resumed with the loop."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a resumed run continues from, as JSON has it."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave."""


def hook_types() -> dict[str, type[Hook]]:
    """The hooks by name."""
    return {cls.name: cls for cls in discover(__name__, Hook)}


def make_hooks(settings: Section, context: HookContext) -> list[Hook]:
    """The hooks that a recipe's `hooks` section names and those that the method declares."""
    hooks = []
    for name, cls in hook_types().items():
        options = getattr(settings, name, None)
        if options is not None or cls.declared_by(context.method):
            hooks.append(cls(options, context))
    return hooks
