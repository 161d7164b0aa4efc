"""How a step's prompts are drawn and asked: epochs, hints, thought patterns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from srft.data import TEMPLATES, Problem, Prompt, tokenize_problems
from srft.errors import SrftError
from srft.training.prompts import Guidance, Hints, conditions, draw, find_patterns, read_patterns

LIMITS = {"max_prompt_length": 900, "max_response_length": 400}


@pytest.fixture
def prompts(tokenizer: Any) -> list[Prompt]:
    problems = [
        Problem(f"Add {i} to {j}.", str(i + j), (f"<think>\n{i} + {j} = {i + j}\n</think>\nIt is \\boxed{{{i + j}}}.",))
        for i in range(3)
        for j in range(2)
    ]
    return tokenize_problems(problems, tokenizer, template=TEMPLATES["srft"], **LIMITS)[0]


def test_an_epoch_holds_every_prompt_once_and_any_place_can_be_had(prompts: list[Prompt]) -> None:
    walk = draw(prompts, 0, 18, seed=3)
    for epoch in range(3):
        assert {id(p) for p in walk[6 * epoch : 6 * epoch + 6]} == {id(p) for p in prompts}
    assert [id(p) for p in draw(prompts, 4, 9, seed=3)] == [id(p) for p in walk[4:13]]
    assert [id(p) for p in draw(prompts, 0, 18, seed=4)] != [id(p) for p in walk]


def test_hints_are_beginnings_of_the_solution(prompts: list[Prompt], tokenizer: Any) -> None:
    hints = Hints(chunks=5, start=0.95, end=0.05, steps=40, tokenizer=tokenizer, seed=0)
    prompt = prompts[0]
    (solution,) = prompt.demonstrations
    seen = set()
    for step in range(1, 60):
        plain, ways = hints(prompt, 4, step, slot=0)
        ((asked, n),) = ways
        hint = asked.ids[len(prompt.ids) :]
        assert n == 4
        assert hint == solution[: len(hint)]
        assert len(hint) < len(solution)  # there is always something left to answer
        assert plain.demonstrations == ((hint,) if hint else ())
        assert plain.ids == prompt.ids
        assert asked.opening == prompt.opening + tokenizer.decode(hint, skip_special_tokens=True)
        seen.add(len(hint))
        if step > 40:
            assert not hint
    assert len(seen) > 3


def test_hints_get_shorter_as_the_cosine_says(tokenizer: Any) -> None:
    hints = Hints(chunks=5, start=0.95, end=0.05, steps=100, tokenizer=tokenizer, seed=0)
    for step, p in ((1, 0.95), (50, 0.5), (100, 0.05)):
        mean = sum(hints.length(step, slot) for slot in range(2000)) / 2000
        assert mean == pytest.approx(5 * p, abs=0.12)


def test_guided_rollouts_see_the_pattern_of_the_nearest_problem(prompts: list[Prompt], tokenizer: Any) -> None:
    def ask(problem: Problem) -> Prompt:
        return tokenize_problems([problem], tokenizer, template=TEMPLATES["srft"], **LIMITS)[0][0]

    patterns = find_patterns([p.problem for p in prompts])
    assert patterns == [(2.0, "<think>\n_ + _ = _\n</think>\nIt is \\boxed{_}.")]
    guidance = Guidance(0.5, [(9, "far"), (2, "near")], ask)
    plain, ways = guidance(prompts[0], 5, 1, 0)
    assert plain is prompts[0]
    assert [n for _, n in ways] == [3, 2]
    text = tokenizer.decode(ways[1][0].ids)
    assert "near" in text
    assert "far" not in text
    assert [n for _, n in replace(guidance, share=1.0)(prompts[0], 5, 1, 0)[1]] == [5]
    assert conditions(Problem("Start with 1.5, add 2 and 30.")) == 3
    chat = Problem(({"role": "system", "content": "7 8 9"}, {"role": "user", "content": "1 and 2"}))
    assert guidance.guided(chat)[-1]["content"].endswith("near")


def test_a_library_of_patterns_is_read_or_refused(tmp_path) -> None:
    file = tmp_path / "library.jsonl"
    file.write_text('{"conditions": 3, "pattern": "split, then check"}\n')
    assert read_patterns(file) == [(3.0, "split, then check")]
    file.write_text('{"condition": 3}\n')
    with pytest.raises(SrftError, match="conditions"):
        read_patterns(file)
    with pytest.raises(SrftError, match="absent"):
        read_patterns(tmp_path / "absent")
