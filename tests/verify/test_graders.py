"""The other graders: choice, exact, format, oat, a user's own function."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srft.data import Problem
from srft.verify import Verifier
from srft.verify.grade import Request
from srft.verify.graders import GRADERS


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
        ("C", "The answer is: C", "right"),
        ("C", "**Answer**: C", "right"),
        ("C", "**Answer:** (C) Paris", "right"),
        ("C", "I choose option C", "right"),
        ("C", "答案: C", "right"),
        ("C", "故选：C", "right"),
        ("C", "The answer is C; option B is wrong", "right"),
        ("C", "Option B is incorrect, so option C", "right"),
        ("C", "the answer is $\\mathbf{c}$.", "right"),
        ("A", "The answer is A because it rains", "right"),
        ("C", "C", "right"),
        ("C", "**C**", "right"),
        ("C", "A or C?\n\n(C).", "right"),
        ("C", "C) Paris", "right"),
        ("C", "answer = C", "right"),
        ("C", "Paris\nC: a note on it", "unparsable"),
        ("A", "A contradiction arises", "unparsable"),
        ("A", "The answer is a.", "right"),
        ("A", "The answer is a contradiction", "unparsable"),
        ("A", "\\boxed{A contradiction}", "unparsable"),
        ("I", "The answer is I think unclear", "unparsable"),
        ("B", "The answer is B or C", "unparsable"),
        ("B", "The answer is not B", "unparsable"),
        ("B", "Option B is not right", "unparsable"),
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
        ("(a+5)(b+2)", "(+5)(b+2)", "right"),  # and lone letters that are units
        ("1000000", "1e6", "right"),
        ("45", "45°", "right"),
        ("5", "5 \\text{ modulo } 7", "right"),
        ("x^2", "\\color{red}{x^2}", "right"),
        ("99999999999999999999", "99999999999999999998", "right"),  # floating point
        ("100", "100 dollars", "wrong"),
        ("2", "\\text{two}", "wrong"),
    ],
)
def test_oat(verifier: Verifier, gold: str, answer: str, expected: str) -> None:
    text = f"<think>\\boxed{{7}}</think> so \\boxed{{{answer}}}"
    assert verifier.grade([(Problem("q", gold, grader="oat"), text)])[0].verdict == expected


def test_oat_reads_the_last_box_alone(verifier: Verifier) -> None:
    items = [(Problem("q", gold, grader="oat"), "\\boxed{1} and \\boxed{2}") for gold in ("1, 2", "2")]
    assert [grade.verdict.value for grade in verifier.grade(items)] == ["wrong", "right"]


plain = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "", "-", "+"]),
    st.one_of(
        st.integers(0, 20), st.sampled_from(["1,000", "1000", "007", "99999999999999999999", "99999999999999999998"])
    ),
    st.sampled_from(["", "", ".0", ".5", ".50", ".3333333333333333", ".33333333333333333", ".0000000001"]),
)


@pytest.mark.parametrize("name", [name for name, grader in GRADERS.items() if grader.shortcut])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(plain, plain)
def test_a_shortcut_decides_plain_numbers_as_the_grader_itself(name: str, gold: str, answer: str) -> None:
    grader, request = GRADERS[name], Request(name, gold, f"\\boxed{{{answer}}}")
    assert grader.shortcut is not None
    decided = grader.shortcut(request)
    assert decided is None or decided == grader.grade(request)
