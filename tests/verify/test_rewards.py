"""Rewards: functions in TRL's and verl's signatures, alone or summed with the grader, from files and from Python."""

from __future__ import annotations

import asyncio
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srft import SrftError, load_recipe
from srft.data import Problem
from srft.run.train import with_rewards
from srft.verify import Verdict, Verifier
from srft.verify.function import reward_function
from srft.verify.grade import Request
from tests.helpers import ROOT

OWN = """
import os

SEEN = []


def trl(prompts, completions, answer, **columns):
    assert isinstance(prompts, list) and columns["level"] == [3] * len(prompts), columns
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [0.25 if a in t else 0.0 for t, a in zip(texts, answer)]


def batch_size(completions):
    return [float(len(completions))] * len(completions)


def verl(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(ground_truth in solution_str), "source": data_source, "pid": os.getpid()}


async def slow(completions, **columns):
    import asyncio
    await asyncio.sleep(0)
    return [len(c) for c in completions]


async def slow_one(solution_str):
    SEEN.append(solution_str)
    import asyncio
    await asyncio.sleep(0)  # the others begin meanwhile
    return len(SEEN)


def hangs(completions, **columns):
    if any("hang" in c for c in completions):
        while True:
            pass
    return [1.0] * len(completions)


def dies(completions, **columns):
    if any("die" in c for c in completions):
        os._exit(1)
    return [1.0] * len(completions)


def raises(completions, **columns):
    return [1 / len(completions[0])]


def not_a_number(completions, **columns):
    return ["good"]


def two(completions, **columns):
    return [1.0, 2.0]


def infinite(solution_str):
    return float("inf")


def wants(completions, difficulty, **columns):
    return [1.0]


def sometimes(completions, **columns):
    return [None if "skip" in c else 0.5 for c in completions]


def neither(response):
    return 1.0
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


def with_function(own: Path, name: str, **options: Any) -> Verifier:
    return Verifier(**{"workers": 1, "rewards": {f"{own}:{name}": 1.0}, **options})


def problem(answer: str = "42", **metadata: Any) -> Problem:
    return Problem("q", answer, metadata=metadata)


def test_trls_signature(own: Path) -> None:
    chat = Problem(({"role": "user", "content": "q"},), "42", metadata={"level": 3})
    text = problem(level=3)
    with with_function(own, "trl") as verifier:
        grades = verifier.grade([(text, "it is 42"), (chat, "it is 42"), (text, "no")])
    assert [g.reward for g in grades] == [0.25, 0.25, 0]
    assert grades[0].verdict is Verdict.WRONG  # less than 1
    assert grades[0].rewards == {"trl": 0.25}


def test_a_batch_is_one_call(own: Path) -> None:
    with with_function(own, "batch_size", workers=2) as verifier:
        assert [g.reward for g in verifier.grade([(problem(), "a")] * 5)] == [5] * 5
        assert verifier.grade([]) == []


def test_verls_signature(own: Path) -> None:
    with with_function(own, "verl", workers=2) as verifier:
        grades = verifier.grade([(Problem("q", "42", source="gsm8k"), text) for text in ("42", "41")])
        assert verifier.self_check([Problem("q", "anything")]) == []
    assert [(g.verdict, g.reward) for g in grades] == [(Verdict.RIGHT, 1), (Verdict.WRONG, 0)]


def test_what_verls_function_gets() -> None:
    seen: list[dict[str, Any]] = []

    def compute_score(data_source: Any, solution_str: Any, ground_truth: Any, extra_info: Any) -> int:
        seen.append(locals() | {"seen": None})
        return 1

    call = reward_function(compute_score).call
    row = {"reward_model": {"ground_truth": ["4", "four"], "style": "rule"}, "extra_info": {"index": 7}, "ability": "m"}
    call([Request("math", "4", "it is 4", "q", "gsm8k", row), Request("math", "5", "5", "q", "", {"level": 2})])
    assert [(s["data_source"], s["solution_str"], s["ground_truth"], s["extra_info"]) for s in seen] == [
        ("gsm8k", "it is 4", ["4", "four"], {"index": 7}),
        ("", "5", "5", {"level": 2}),
    ]


def test_columns_of_mixed_rows_are_none_where_a_row_has_none() -> None:
    seen: dict[str, Any] = {}

    def score(completions: Any, **columns: Any) -> list[int]:
        seen.update(columns)
        return [0] * len(completions)

    reward_function(score).call(
        [
            Request("math", "4", "a", "q", "x", {"level": 1}),
            Request("math", "5", "b", "p", "y", {"answer": "five", "topic": "sums"}),
        ]
    )
    assert (seen["level"], seen["topic"]) == ([1, None], [None, "sums"])
    assert seen["answer"] == ["4", "five"]  # the data set's own column, as it stands there
    assert (seen["ground_truth"], seen["data_source"], seen["prompts"]) == (["4", "5"], ["x", "y"], ["q", "p"])


def test_async_functions(own: Path) -> None:
    with with_function(own, "slow") as verifier:
        assert [g.reward for g in verifier.grade([(problem(), "ab"), (problem(), "a")])] == [2, 1]
        again = asyncio.run(verifier.grade_async([(problem(), "abc")]))
        assert [g.reward for g in again] == [3]
    with with_function(own, "slow_one") as verifier:
        # Both had begun before either ended.
        assert [g.reward for g in verifier.grade([(problem(), "a"), (problem(), "b")])] == [2, 2]


@pytest.mark.parametrize(("name", "word"), [("hangs", "hang"), ("dies", "die")])
def test_a_batch_that_hangs_or_dies_is_tried_one_by_one(own: Path, name: str, word: str) -> None:
    with with_function(own, name, timeout=1, function_timeout=1) as verifier:
        grades = verifier.grade([(problem(), text) for text in ("fine", word, "fine")])
        assert [g.verdict.value for g in grades] == ["right", "timeout", "right"]
        assert [g.reward for g in grades] == [1, 0, 1]


def test_a_function_that_always_hangs_stops_the_run(own: Path) -> None:
    with (
        with_function(own, "hangs", timeout=0.02, function_timeout=0.02, max_timeouts=0.5) as verifier,
        pytest.raises(SrftError, match=r"32 of 32 responses .* hangs: it did not return within 0\.02 s"),
    ):
        verifier.grade([(problem(), "hang")] * 32)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", "ZeroDivisionError"),
        ("not_a_number", "returned 'good', not a finite number"),
        ("two", "for 1 completions it returned"),
        ("infinite", "it returned inf"),
        ("wants", "difficulty"),
        ("neither", "give it TRL"),
        ("absent", "no function 'absent'"),
    ],
)
def test_a_broken_function_is_an_error_that_names_its_file(own: Path, name: str, words: str) -> None:
    with with_function(own, name) as verifier, pytest.raises(SrftError, match=words) as caught:
        verifier.check_functions([(problem(), "")])
    assert str(own) in str(caught.value)


def test_a_function_that_cannot_be_one_is_refused_at_once(tmp_path: Path, own: Path) -> None:
    for spec in ("own.py", f"{tmp_path}/absent.py:f", "own.py:a-b"):
        with pytest.raises(SrftError, match=r"verify\.function"):
            Verifier(rewards={spec: 1.0})
    with pytest.raises(SrftError, match="takes"):
        Verifier(rewards={lambda response: 1.0: 1.0})
    (tmp_path / "other.py").write_text(OWN)
    with pytest.raises(SrftError, match="two rewards are called 'verl'"):
        Verifier(rewards={f"{own}:verl": 1.0, f"{tmp_path}/other.py:verl": 1.0})


def test_a_weighted_sum_with_the_grader(own: Path) -> None:
    rewards = {"grader": 0.9, f"{own}:sometimes": 0.2, f"{own}:batch_size": 0.0}
    with Verifier(1, rewards=rewards) as verifier:
        items = [(problem("4"), text) for text in ("\\boxed{4}", "\\boxed{4} skip", "\\boxed{5}", "4")]
        grades = verifier.grade(items)
        assert [g.reward for g in grades] == pytest.approx([1.0, 0.9, 0.1, 0.1])
        # The grader says what is right, not the sum.
        assert [g.verdict.value for g in grades] == ["right", "right", "wrong", "unparsable"]
        assert grades[1].rewards == {"grader": 1.0, "sometimes": None, "batch_size": 4.0}
        accuracy = verifier.accuracy(items, "last")  # an evaluation is by the grader alone
        assert [g.reward for g in accuracy] == [1, 1, 0, 1]
    with Verifier(1, rewards=rewards, right_at=1.0) as verifier:
        assert [g.verdict.value for g in verifier.grade(items)] == ["right", "wrong", "wrong", "unparsable"]


def test_what_right_is_has_a_threshold(own: Path) -> None:
    with with_function(own, "sometimes", right_at=0.5) as verifier:
        grades = verifier.grade([(problem(), "yes"), (problem(), "skip")])
        assert [g.verdict.value for g in grades] == ["right", "unparsable"]
        assert [g.reward for g in grades] == [0.5, 0]


def test_functions_of_python() -> None:
    def score(completions: Any, **columns: Any) -> list[float]:
        return [os.getpid() * ("yes" in c) for c in completions]

    def broken(solution_str: str) -> float:
        raise KeyError("nothing")

    with Verifier(1, rewards={score: 1.0}) as verifier:
        assert [g.reward for g in verifier.grade([(problem(), "yes"), (problem(), "no")])] == [os.getpid(), 0]
    with Verifier(1, rewards={broken: 1.0}) as verifier, pytest.raises(SrftError, match="KeyError: 'nothing'"):
        verifier.grade([(problem(), "")])


def test_a_function_of_python_that_hangs_ends_the_run() -> None:
    import threading

    forever = threading.Event()

    def waits(completions: Any) -> list[float]:
        forever.wait()
        return [0.0]

    words = r"did not return within 0\.2 s"
    with Verifier(1, rewards={waits: 1.0}, function_timeout=0.2) as verifier, pytest.raises(SrftError, match=words):
        verifier.grade([(problem(), "")])
    forever.set()


def test_a_recipe_names_rewards(own: Path) -> None:
    recipe = load_recipe("quickstart", [f"verify.function={own}:verl"])
    assert recipe.verify.weights == {f"{own}:verl": 1.0}
    recipe = load_recipe("quickstart", [f"verify.rewards={{grader: 1, {own}:verl: 0.2}}"])
    assert recipe.verify.weights == {"grader": 1.0, f"{own}:verl": 0.2}
    assert load_recipe("quickstart").verify.weights == {"grader": 1.0}
    with pytest.raises(SrftError, match="one of `function` and `rewards`"):
        load_recipe("quickstart", [f"verify.function={own}:verl", "verify.rewards={grader: 1}"])


def test_rewards_of_python_stand_in_the_recipe_by_name(own: Path) -> None:
    def brief(completions: Any) -> list[float]:
        return [0.0]

    staged = load_recipe({"extends": "quickstart", "stages": [{}, {"method": {"name": "grpo"}}]})
    recipe, functions = with_rewards(staged, ["grader", (brief, 0.5), (f"{own}:verl", 2.0)])
    for part in (recipe, *recipe.stages):
        assert part.verify.weights == {"grader": 1.0, "brief": 0.5, f"{own}:verl": 2.0}
    assert functions == {"brief": brief}
    with Verifier.of(recipe.verify, functions) as verifier:
        assert [reward.name for reward, _ in verifier.functions] == ["brief", "verl"]
    with pytest.raises(SrftError, match="'brief' names no function") as error:  # resumed without it
        Verifier.of(recipe.verify)
    assert "rewards=[function]" in error.value.fix
    with pytest.raises(SrftError, match="two have one name"):
        with_rewards(staged, [brief, (brief, 0.5)])


def test_the_examples() -> None:
    file = ROOT / "examples" / "rewards.py"
    rewards = {f"{file}:{name}": 1.0 for name in ("brevity", "shows_steps", "judged", "compute_score")}
    items = [
        (Problem("q", "4", metadata={"level": 3}), "Step 1. Step 2, because 2 + 2 = 4"),
        (Problem("q", "4", metadata={"level": 1}), "5"),
    ]
    with Verifier(1, rewards=rewards) as verifier:
        first, second = verifier.grade(items)
    assert first.rewards == pytest.approx(
        {"brevity": 1 - len(items[0][1]) / 400, "shows_steps": 1, "judged": 1, "compute_score": 1}
    )
    assert second.rewards == pytest.approx(
        {"brevity": 1 - 1 / 400, "shows_steps": None, "judged": 0, "compute_score": 0}
    )


@pytest.mark.parametrize(
    ("value", "reward"),
    [
        (True, 1.0),
        (-1e6, -1e6),
        (None, None),
        (7, 7.0),
        (Fraction(1, 2), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(2), 2),
    ],
)
def test_what_a_reward_may_be(value: Any, reward: float | None) -> None:
    def given(solution_str: str) -> Any:
        return value

    with Verifier(1, rewards={given: 1.0}) as verifier:
        (grade,) = verifier.grade([(problem(), "a")])
    assert grade.rewards == {"given": reward}


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("-inf"), 1e300, 1e6 + 1, 10**5000, "0.5", b"1", [1.0], 1j, np.float64("nan")],
    ids=lambda value: f"{type(value).__name__} {value}" if not isinstance(value, int) else "long integer",
)
def test_what_is_no_reward_is_refused_by_name(value: Any) -> None:
    def given(completions: Any) -> list[Any]:
        return [0.0, value]

    words = r"rewards: given: ValueError: for the response 'the \\ud800 second' it returned .*, not a finite number"
    with Verifier(1, rewards={given: 1.0}) as verifier, pytest.raises(SrftError, match=words):
        verifier.grade([(problem(), "first"), (problem(), "the \ud800 second")])


def test_a_weight_is_bounded() -> None:
    for weight in (float("nan"), float("inf"), 1e300):
        with pytest.raises(SrftError, match=r"verify\.rewards: a weight is"):
            Verifier(rewards={"grader": weight})


def test_a_python_function_that_exits_is_an_error() -> None:
    def leaves(solution_str: str) -> float:
        raise SystemExit(3)

    with Verifier(1, rewards={leaves: 1.0}) as verifier, pytest.raises(SrftError, match="leaves: SystemExit: 3"):
        verifier.grade([(problem(), "")])


def test_a_function_of_a_file_sees_any_text_and_no_row_that_is_not_json(own: Path) -> None:
    texts = ["\ud800\x00", "\u2028\u202e", "9" * 5000, "\x1b[31m", "a" * 300_000]
    with with_function(own, "slow") as verifier:
        assert [g.reward for g in verifier.grade([(problem(), text) for text in texts])] == [len(t) for t in texts]
        with pytest.raises(SrftError, match="a row cannot be written as JSON"):
            verifier.grade([(Problem("q", "1", metadata={"a": {("b", "c"): 1}}), "a")])
