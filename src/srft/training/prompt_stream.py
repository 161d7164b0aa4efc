"""Which prompts a step draws: a walk through shuffled epochs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from srft.data.tokenize import Prompt
from srft.seed import derive_seed


class PromptStream:
    """Draws prompts epoch by epoch, each epoch in an order of its own.

    Args:
        prompts: to train on.
        seed: of the orders.

    Attributes:
        position: prompts drawn so far; what a resumed run continues from.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        self.prompts, self.seed, self.position = prompts, seed, 0

    def draw(self, count: int) -> list[Prompt]:
        """The next `count` prompts; any position can be continued from without a walk up to it."""
        places = range(self.position, self.position + count)
        size = len(self.prompts)
        orders = {epoch: self._order(epoch) for epoch in {place // size for place in places}}
        self.position += count
        return [self.prompts[orders[place // size][place % size]] for place in places]

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        return torch.randperm(len(self.prompts), generator=generator).tolist()
