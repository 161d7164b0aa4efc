"""Whatever text a model writes: a verdict within the deadline, never an exception."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srft.data import Problem
from srft.verify import Verifier
from srft.verify.answer import answer_of, last_box, plain_number
from srft.verify.extract import boxed, last_answer
from srft.verify.graders import GRADERS, choice_letter

TIMEOUT = 2.0  # seconds for one answer
SLACK = 15.0  # seconds more that a busy machine may take to start another process
NAMES = tuple(name for name, grader in GRADERS.items() if not grader.extra)

LATEX = (
    r"\frac{ \dfrac \sqrt[3]{ \sqrt \left( \right) \boxed{ \boxed \fbox{ { } {} \{ \} [ ] ( ) | \| ^ ^{ _ _{ ! !! %",
    r"\% ° ^\circ \pm \cdot \times \div / // * ** + - = \neq < > \le \ge \in \cup \cap \infty \pi \theta e i \mathrm{i}",
    r"\text{ \mathrm{ \mathbb{R} \sum_{k=1}^{ \prod \int_0^ \lim_{x\to0} \log \ln \sin \arctan \binom{ \choose",
    r"\begin{pmatrix} \end{pmatrix} \begin{cases} \\ & , ; : . … \ldots \dots x y z n a_1 x^2 1 2 10 0.5 .5 1,000 1e999",
    r"10^{10^{10}} 9999999999 0.333 0.\overline{3} \overline{ cm km/h apples dollars $ $$ € ¥ 元 千米 或 和 是 答案 and or",
    r"even no\ solution True None lambda __import__ nan inf -inf 52_8 3:45 PM A (B) option answer is #### **Answer:**",
    r"<think> </think> <answer> </answer> \x00 \mod 7 \equiv \to \mapsto \vec{ \hat \underline{ \color{red} \therefore",
)
FRAGMENTS = [word for line in LATEX for word in line.split()]
SYMBOLS = st.one_of(
    st.sampled_from(FRAGMENTS),
    st.sampled_from(["\ud800", "\udfff", "\x00", "\u202e", "\u2028", "\ufeff", "\x1b[31m", "\n", "\t", "　"]),
    st.integers(0, 6).map(lambda n: "9" * 10**n if n < 6 else "9" * 5000),
    st.tuples(st.sampled_from(["(", "{", "\\sqrt{", "\\frac{", "[", "-", "!", "^{2", "\\text{"]), st.sampled_from([3, 60, 3000])).map(
        lambda pair: pair[0] * pair[1]
    ),
    st.text(max_size=6),
)  # fmt: skip
TEXTS = st.lists(SYMBOLS, max_size=12).map("".join)
RESPONSES = st.one_of(TEXTS, TEXTS.map(lambda text: f"\\boxed{{{text}}}"), TEXTS.map(lambda text: f"<think>{text}"))
GOLDS = st.one_of(st.sampled_from(["42", "\\frac{1}{2}", "x+1", "(1,2]", "A", "\\text{even}"]), TEXTS)
CHEAP = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(CHEAP, max_examples=1000, derandomize=False)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=1, timeout=TIMEOUT) as verifier:
        yield verifier


def check_extraction(text: str) -> None:
    began = time.perf_counter()
    for read in (answer_of, last_box, last_answer, choice_letter, plain_number, boxed):
        read(text)
    assert time.perf_counter() - began < 1


def check_grades(verifier: Verifier, gold: str, text: str) -> None:
    began = time.monotonic()
    for name in NAMES:
        (grade,) = verifier.grade([(Problem("q", gold, grader=name), text)])
        assert grade.reward in (0.0, 1.0)
    assert time.monotonic() - began < 2 * TIMEOUT + SLACK  # two graders have workers


@CHEAP
@given(RESPONSES)
def test_extraction(text: str) -> None:
    check_extraction(text)


@CHEAP
@given(GOLDS, RESPONSES)
def test_every_grader(verifier: Verifier, gold: str, text: str) -> None:
    check_grades(verifier, gold, text)


@pytest.mark.drills
@pytest.mark.timeout(3600)
@settings(LONG, max_examples=5000)
@given(RESPONSES)
def test_extraction_for_long(text: str) -> None:
    check_extraction(text)


@pytest.mark.drills
@pytest.mark.timeout(3600)
@LONG
@given(GOLDS, RESPONSES)
def test_every_grader_for_long(verifier: Verifier, gold: str, text: str) -> None:
    check_grades(verifier, gold, text)


LARGE = {
    "digits": "9" * 5000,
    "a decimal": "0." + "3" * 5000,
    "an exponent": "10^{" + "9" * 4500 + "}",
    "a power": "7^{99999}",
    "a nest of brackets": "(" * 3000 + "1" + ")" * 3000,
    "a nest of roots": "\\sqrt{" * 900 + "2" + "}" * 900,
    "a nest of fractions": "\\frac{1}{" * 300 + "2" + "}" * 300,
    "long LaTeX": "+".join(f"\\frac{{x^{{{k}}}}}{{{k}}}" for k in range(1, 5000)),
    "NUL": "4\x002",
    "surrogates": "\ud800\udfff\udc80",
}


@pytest.mark.parametrize("kind", LARGE)
def test_large_and_odd_answers(verifier: Verifier, kind: str) -> None:
    """As the answer, as the gold answer and as both; what is equal to the letter is right, whatever its size."""
    text = LARGE[kind]
    for name in ("math", "oat", "exact"):
        other = verifier.grade([(Problem("q", "2", grader=name), f"\\boxed{{{text}}}")])[0]
        gold = verifier.grade([(Problem("q", text, grader=name), "\\boxed{2}")])[0]
        both = verifier.grade([(Problem("q", text, grader=name), f"\\boxed{{{text}}}")])[0]
        assert [other.reward, gold.reward, both.reward] == [0, 0, 1]
