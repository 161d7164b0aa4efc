"""What the policy is asked for a prompt's group: the prompt as it is, hints, thought patterns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from srft import load_recipe
from srft.data import TEMPLATES, Problem, Prompt, tokenize_problems
from srft.errors import SrftError
from srft.rollout.prompting import Prompting, PromptingContext, strategies
from srft.rollout.prompting.hints import Hints
from srft.rollout.prompting.thought_patterns import (
    ThoughtPattern,
    ThoughtPatterns,
    count_conditions,
    patterns_of,
    read_patterns,
)

LIMITS = {"max_prompt_length": 900, "max_response_length": 400}


@pytest.fixture
def prompts(tokenizer: Any) -> list[Prompt]:
    problems = [
        Problem(f"Add {i} to {j}.", str(i + j), (f"<think>\n{i} + {j} = {i + j}\n</think>\nIt is \\boxed{{{i + j}}}.",))
        for i in range(3)
        for j in range(2)
    ]
    return tokenize_problems(problems, tokenizer, template=TEMPLATES["srft"], **LIMITS).prompts


def context(tokenizer: Any, prompts: Sequence[Prompt] = (), steps: int = 100) -> PromptingContext:
    return PromptingContext([p.problem for p in prompts], tokenizer, TEMPLATES["srft"], steps=steps, seed=0, **LIMITS)


def library(tmp_path: Path, *rows: str) -> str:
    file = tmp_path / "library.jsonl"
    file.write_text("".join(row + "\n" for row in rows))
    return str(file)


def test_strategies_by_name() -> None:
    assert {"plain", "hints", "thought-patterns"} <= set(strategies())
    for name, strategy in strategies().items():
        assert strategy.name == strategy.Options().strategy == name
    assert Hints.reads_demonstrations
    assert not Prompting.reads_demonstrations


def test_plain_asks_the_prompt_as_it_is(prompts: list[Prompt], tokenizer: Any) -> None:
    plain = Prompting(Prompting.Options(), context(tokenizer))
    asked = plain.ask(prompts[0], 4, step=1, group_id=0)
    assert asked.prompt is prompts[0]
    assert [(v.prompt, v.n) for v in asked.variants] == [(prompts[0], 4)]
    assert plain.extra_tokens == 0


def test_hints_are_beginnings_of_the_solution(prompts: list[Prompt], tokenizer: Any) -> None:
    hints = Hints(Hints.Options(chunks=5, start=0.95, end=0.05, steps=0.4), context(tokenizer, prompts, steps=100))
    prompt = prompts[0]
    (solution,) = prompt.demonstrations
    lengths = set()
    for step in range(1, 60):
        asked = hints.ask(prompt, 4, step, group_id=0)
        (variant,) = asked.variants
        hint = variant.prompt.token_ids[len(prompt.token_ids) :]
        assert variant.n == 4
        assert variant.prompt.token_ids[: len(prompt.token_ids)] == prompt.token_ids
        assert hint == solution.token_ids[: len(hint)]
        assert len(hint) < len(solution.token_ids)  # there is always something left to answer
        assert len(hint) <= hints.extra_tokens
        assert [d.token_ids for d in asked.prompt.demonstrations] == ([hint] if hint else [])
        assert all(d.truncated for d in asked.prompt.demonstrations)
        assert asked.prompt.token_ids == prompt.token_ids
        assert variant.prompt.opening == prompt.opening + tokenizer.decode(hint, skip_special_tokens=True)
        lengths.add(len(hint))
        if step > 40:
            assert not hint
    assert len(lengths) > 3


def test_hints_get_shorter_as_the_cosine_says(tokenizer: Any) -> None:
    hints = Hints(Hints.Options(chunks=5, start=0.95, end=0.05, steps=1.0), context(tokenizer, steps=100))
    for step, p in ((1, 0.95), (50, 0.5), (100, 0.05)):
        mean = sum(hints.hint_chunks(step, group_id) for group_id in range(2000)) / 2000
        assert mean == pytest.approx(5 * p, abs=0.12)


def test_patterns_of_demonstrations_have_their_numbers_blanked(prompts: list[Prompt]) -> None:
    patterns = patterns_of([p.problem for p in prompts])
    assert patterns == [ThoughtPattern(2.0, "<think>\n_ + _ = _\n</think>\nIt is \\boxed{_}.")]
    assert patterns_of([Problem("1 and 2", "3", ("x" * 50,))], longest=10) == [ThoughtPattern(2.0, "x" * 10)]


def test_guided_rollouts_see_the_pattern_of_the_nearest_problem(
    prompts: list[Prompt], tokenizer: Any, tmp_path: Path
) -> None:
    file = library(tmp_path, '{"conditions": 9, "pattern": "far"}', '{"conditions": 2, "pattern": "near"}')

    def strategy(share: float) -> ThoughtPatterns:
        return ThoughtPatterns(ThoughtPatterns.Options(share=share, library=file), context(tokenizer, prompts))

    patterns = strategy(0.5)
    asked = patterns.ask(prompts[0], 5, step=1, group_id=0)
    assert asked.prompt is prompts[0]
    assert [v.n for v in asked.variants] == [3, 2]
    assert asked.variants[0].prompt is prompts[0]
    guided = asked.variants[1].prompt
    text = tokenizer.decode(guided.token_ids)
    assert "near" in text
    assert "far" not in text
    assert len(guided.token_ids) - len(prompts[0].token_ids) <= patterns.extra_tokens
    assert [v.n for v in strategy(1.0).ask(prompts[0], 5, step=1, group_id=0).variants] == [5]
    assert count_conditions(Problem("Start with 1.5, add 2 and 30.")) == 3
    chat = Problem(({"role": "system", "content": "7 8 9"}, {"role": "user", "content": "1 and 2"}))
    assert patterns.guided(chat)[-1]["content"].endswith("near")
    assert patterns.guided(chat)[0] == chat.prompt[0]


def test_without_a_library_patterns_come_from_the_demonstrations(prompts: list[Prompt], tokenizer: Any) -> None:
    patterns = ThoughtPatterns(ThoughtPatterns.Options(), context(tokenizer, prompts))
    guided = patterns.ask(prompts[0], 2, step=1, group_id=0).variants[1].prompt
    assert "_ + _ = _" in tokenizer.decode(guided.token_ids)
    with pytest.raises(SrftError, match=r"rollout\.prompting\.library"):
        ThoughtPatterns(ThoughtPatterns.Options(), context(tokenizer))


def test_a_library_of_patterns_is_read_or_refused(tmp_path: Path) -> None:
    assert read_patterns(library(tmp_path, '{"conditions": 3, "pattern": "split, then check"}')) == [
        ThoughtPattern(3.0, "split, then check")
    ]
    with pytest.raises(SrftError, match="conditions"):
        read_patterns(library(tmp_path, '{"condition": 3}'))
    with pytest.raises(SrftError, match="absent"):
        read_patterns(tmp_path / "absent")


@pytest.mark.parametrize(
    ("method", "options"), [("srft", Prompting.Options), ("uft", Hints.Options), ("tapo", ThoughtPatterns.Options)]
)
def test_a_recipe_holds_the_strategys_own_options(method: str, options: type) -> None:
    recipe = load_recipe("quickstart", [f"method.name={method}"])
    assert type(recipe.rollout.prompting) is options
    assert load_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("key", "value"), [("strategy", "hint"), ("chunk", "3"), ("chunks", "0"), ("share", "0.5"), ("start", "often")]
)
def test_a_recipe_refuses_wrong_options_of_a_strategy(key: str, value: str) -> None:
    with pytest.raises(SrftError, match="prompting"):
        load_recipe("quickstart", ["rollout.prompting.strategy=hints", f"rollout.prompting.{key}={value}"])
