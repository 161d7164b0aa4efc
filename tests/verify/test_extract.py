"""Answers of responses that box none."""

from __future__ import annotations

import pytest

from srft.verify.extract import boxed, last_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 3 * 4 = 12.\n#### 12\nThe answer is: 12", "12"),
        ("The answer is $\\frac{1}{2}$.", "\\frac{1}{2}"),
        ("**Answer:** 5", "5"),
        ("she makes $1,234.50 a day, in all", "1,234.50"),
        ("The answer is 4. No: the answer is -7.", "-7"),
        ("So the answer is: 3 + 4 = 7 apples.", "7 apples"),
        ("nothing at all", None),
        ("answer:", None),
    ],
)
def test_the_last_stated_answer(text: str, answer: str | None) -> None:
    assert last_answer(text) == answer


def test_a_box_goes_before_and_thinking_does_not_answer() -> None:
    assert boxed("The answer is 3, \\boxed{4}") == "The answer is 3, \\boxed{4}"
    assert boxed("<think>\nthe answer is 3") == "<think>\nthe answer is 3"
    assert (
        boxed("<think>\nthe answer is 3</think>\nIt is 5.") == "<think>\nthe answer is 3</think>\nIt is 5.\n\\boxed{5}"
    )
    assert boxed("well") == "well"
