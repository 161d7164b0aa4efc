"""The other graders: choice, exact, format, oat, a user's own function."""

from __future__ import annotations

from pathlib import Path

import pytest

from srft.data import Problem
from srft.errors import SrftError
from srft.recipe.load import load_recipe
from srft.verify import Verdict, Verifier


@pytest.fixture(scope="module")
def verifier():
    with Verifier(workers=1, timeout=20) as verifier:
        yield verifier


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("C", "\\boxed{C}", "right"),
        ("C", "\\boxed{\\text{C}}", "right"),
        ("C", "\\boxed{(C)}", "right"),
        ("C", "\\boxed{c.}", "right"),
        ("C", "\\boxed{Option C}", "right"),
        ("C", "\\boxed{\\textbf{(C) } 42}", "right"),
        ("C", "\\boxed{C: Paris}", "right"),
        ("(C)", "thinking: A or B?\nThe answer is (C).", "right"),
        ("C", "**Answer: C**", "right"),
        ("C", "The correct option is B, no, the answer is C", "right"),
        ("C", "\\boxed{A}", "wrong"),
        ("C", "\\boxed{A} no, \\boxed{C}", "right"),
        ("C", "<think>\\boxed{C}</think> \\boxed{D}", "wrong"),
        ("C", "\\boxed{A, C}", "unparsable"),
        ("C", "\\boxed{Paris}", "unparsable"),
        ("C", "\\boxed{Cat}", "unparsable"),
        ("C", "I cannot say", "unparsable"),
        ("C", "<think>the answer is C", "unparsable"),
    ],
)
def test_choice(verifier: Verifier, gold: str, text: str, expected: str) -> None:
    assert verifier.grade([(Problem("q", gold, grader="choice"), text)])[0].verdict == expected


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("New York", "\\boxed{New  York}", "right"),
        ("New York", "<think>Paris?</think>\nNew York\n", "right"),
        ("New York", "\\boxed{new york}", "wrong"),
        ("2", "\\boxed{2.0}", "wrong"),
        ("2", "", "unparsable"),
        ("2", "<think>2", "unparsable"),
    ],
)
def test_exact(verifier: Verifier, gold: str, text: str, expected: str) -> None:
    assert verifier.grade([(Problem("q", gold, grader="exact"), text)])[0].verdict == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think> b", "right"),
        ("<think>\na\n</think>\n<answer>b</answer>\n", "right"),
        ("<think>a</think>", "wrong"),
        ("<think> </think> b", "wrong"),
        ("<think>a</think><answer> </answer>", "wrong"),
        ("b", "wrong"),
        ("first <think>a</think> b", "wrong"),
        ("<think>a<think>b</think> c", "wrong"),
        ("<think>a</think> b </think>", "wrong"),
        ("<answer>b</answer><think>a</think>", "wrong"),
        ("<think>a</think> b <answer>c</answer>", "wrong"),
    ],
)
def test_format(verifier: Verifier, text: str, expected: str) -> None:
    assert verifier.grade([(Problem("q", "", grader="format"), text)])[0].verdict == expected


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("\\frac{1}{2}", "0.5", "right"),
        ("10", "10 \\text{ miles}", "right"),
        ("1,000", "1000", "right"),
        ("(1,2)", "(1, 2)", "right"),
        ("x+1", "1+x", "right"),
        ("\\text{east}", "East", "right"),
        ("3", "x=3", "right"),
        ("10\\%", "10", "right"),  # OAT drops percent signs
        ("3", "4", "wrong"),
        ("(1,2)", "[1,2]", "wrong"),
        ("3", "9^{9^{9^9}}", "unparsable"),
    ],
)
def test_oat(verifier: Verifier, gold: str, answer: str, expected: str) -> None:
    text = f"<think>\\boxed{{7}}</think> so \\boxed{{{answer}}}"
    assert verifier.grade([(Problem("q", gold, grader="oat"), text)])[0].verdict == expected


OWN = """
import os


def trl(prompts, completions, answer, **columns):
    assert isinstance(prompts, list) and columns["level"] == [3], columns
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [0.25 if a in t else 0.0 for t, a in zip(texts, answer)]


def verl(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(ground_truth in solution_str), "source": data_source, "pid": os.getpid()}


def hangs(completions, **columns):
    if "hang" in completions[0]:
        while True:
            pass
    return [1.0]


def raises(completions, **columns):
    return [1 / len(completions[0])]


def not_a_number(completions, **columns):
    return ["good"]


def two(completions, **columns):
    return [1.0, 2.0]


def neither(response):
    return 1.0
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


def test_a_function_with_trls_signature(own: Path) -> None:
    text, chat = (
        Problem("q", "42", metadata={"level": 3}),
        Problem(({"role": "user", "content": "q"},), "42", metadata={"level": 3}),
    )
    with Verifier(workers=1, function=f"{own}:trl") as verifier:
        grades = verifier.grade([(text, "it is 42"), (chat, "it is 42"), (text, "no")])
    assert [g.reward for g in grades] == [0.25, 0.25, 0]
    assert grades[0].verdict is Verdict.WRONG  # less than 1


def test_a_function_with_verls_signature(own: Path) -> None:
    with Verifier(workers=2, function=f"{own}:verl") as verifier:
        grades = verifier.grade([(Problem("q", "42", source="gsm8k"), text) for text in ("42", "41")])
        assert verifier.self_check([Problem("q", "anything")]) == []
    assert [(g.verdict, g.reward) for g in grades] == [(Verdict.RIGHT, 1), (Verdict.WRONG, 0)]


def test_a_function_that_hangs_is_killed(own: Path) -> None:
    with Verifier(workers=1, timeout=1, function=f"{own}:hangs") as verifier:
        grades = verifier.grade([(Problem("q"), text) for text in ("fine", "hang", "fine")])
    assert [g.verdict.value for g in grades] == ["right", "timeout", "right"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", "ZeroDivisionError"),
        ("not_a_number", "not a number"),
        ("two", "not a list of one number"),
        ("neither", "give it TRL"),
        ("absent", "no function 'absent'"),
    ],
)
def test_a_broken_function_is_an_error_that_names_its_file(own: Path, name: str, words: str) -> None:
    with Verifier(workers=1, function=f"{own}:{name}") as verifier, pytest.raises(SrftError, match=words) as caught:
        verifier.grade([(Problem("q"), "")])
    assert str(own) in str(caught.value)


def test_a_function_that_cannot_be_one_is_refused_at_once(tmp_path: Path) -> None:
    for spec in ("own.py", f"{tmp_path}/absent.py:f", "own.py:a-b"):
        with pytest.raises(SrftError, match=r"verify\.function"):
            Verifier(function=spec)


def test_a_recipe_names_a_function(own: Path) -> None:
    recipe = load_recipe("quickstart", [f"verify.function={own}:verl"])
    assert recipe.verify.function == f"{own}:verl"
