"""Which prompts a step draws: epochs, and that a walk can be continued from any position."""

from __future__ import annotations

import pytest

from srft.data import Problem, Prompt
from srft.training.prompt_stream import PromptStream


@pytest.fixture
def prompts() -> list[Prompt]:
    return [Prompt(Problem(f"Add {i} to {j}.", str(i + j)), (i, j)) for i in range(3) for j in range(2)]


def drawn(prompts: list[Prompt], position: int, count: int, seed: int) -> list[int]:
    stream = PromptStream(prompts, seed)
    stream.position = position
    return [prompts.index(p) for p in stream.draw(count)]


def test_an_epoch_holds_every_prompt_once(prompts: list[Prompt]) -> None:
    walk = drawn(prompts, 0, 18, seed=3)
    epochs = [walk[i : i + 6] for i in (0, 6, 12)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4, 5]] * 3
    assert epochs[0] != epochs[1]  # each epoch in an order of its own
    assert drawn(prompts, 0, 18, seed=4) != walk


def test_any_position_can_be_continued_from(prompts: list[Prompt]) -> None:
    walk = drawn(prompts, 0, 18, seed=3)
    assert drawn(prompts, 4, 9, seed=3) == walk[4:13]
    stream = PromptStream(prompts, seed=3)
    parts = [prompts.index(p) for count in (1, 4, 0, 8, 5) for p in stream.draw(count)]
    assert parts == walk
    assert stream.position == 18
