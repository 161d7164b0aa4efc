"""A method that does not do the same in every step chooses what the step needs (SASR)."""

from __future__ import annotations

from typing import Any, ClassVar

from srft.objective.registry import Method, Need
from srft.seed import derive_seed
from srft.training.hooks import History, Hook, HookContext


class Choice(Hook):
    """Asks the method's `chooses`, with a draw that the seed and the step alone decide."""

    name: ClassVar[str] = "choice"

    def __init__(self, options: Any, context: HookContext) -> None:
        self.context = context
        self.options = context.method.defaults(context.method_options)

    @staticmethod
    def declared_by(method: Method) -> bool:
        """The method declares `chooses`."""
        return method.chooses is not None

    def needs(self, step: int, needs: frozenset[Need], history: History) -> frozenset[Need]:
        """What the method chooses."""
        assert self.context.method.chooses is not None
        draw = derive_seed(self.context.seed, "choice", self.context.first_step + step) / 2**63
        chosen = self.context.method.chooses(self.options, step, history, draw)
        return chosen | (needs - self.context.method.needs(self.options))  # with what the recipe asks for besides
