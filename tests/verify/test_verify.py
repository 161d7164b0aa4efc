"""The verifier with real worker processes and hostile answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srft.data import Problem, load_problems
from srft.errors import SrftError
from srft.verify import Grade, Verifier
from srft.verify.answer import answer_of, plain_number
from srft.verify.grade import Request
from srft.verify.graders import GRADERS
from tests.conftest import shared

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from hostile import good_items, hostile_items


@pytest.fixture(scope="module")
def verifier():
    with Verifier(workers=2, timeout=5) as verifier:
        yield verifier


def verdict(verifier: Verifier, gold: str, text: str) -> str:
    return verifier.grade([(Problem("q", gold), text)])[0].verdict.value


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("72", "so \\boxed{72}", "right"),
        ("1,000", "\\boxed{1000.0}", "right"),
        ("\\frac{1}{2}", "\\boxed{0.5}", "right"),
        ("x+1", "\\boxed{3} no, \\boxed{1+x}", "right"),
        ("\\frac{1}{2}", "\\boxed{\\frac{1}{3}}", "wrong"),
        ("72", "it is 72", "unparsable"),
        ("72", "\\boxed{72", "unparsable"),
        ("72", "", "unparsable"),
        ("72", "<think>\n\\boxed{72}", "unparsable"),  # thinking never ended
        ("72", "<think>\n\\boxed{71}</think>\\boxed{72}", "right"),
        ("72", "<think>\n\\boxed{72}</think>", "unparsable"),  # only what follows the thinking counts
        ("x", "\\boxed{\ud800\x00}", "unparsable"),
    ],
)
def test_verdicts(verifier: Verifier, gold: str, text: str, expected: str) -> None:
    assert verdict(verifier, gold, text) == expected


def test_hanging_answers_are_kept_apart_and_hold_nobody_up() -> None:
    items = [("2", "(x+1)^{9999}-x"), ("x+1", "1+x"), ("2", "9^{9^{9^9}}"), ("2", "99999999!"), ("x+1", "y")]
    with Verifier(workers=1, timeout=2) as impatient:
        grades = impatient.grade([(Problem("q", gold), f"\\boxed{{{candidate}}}") for gold, candidate in items])
        assert [g.verdict.value for g in grades] == ["timeout", "right", "unparsable", "unparsable", "wrong"]
        assert [g.reward for g in grades] == [0, 1, 0, 0, 0]
        assert impatient.counts == {"timeout": 1, "right": 1, "unparsable": 2, "wrong": 1}
        assert impatient.replaced == 1


def test_a_hanging_answer_is_really_killed() -> None:
    me = psutil.Process()
    before = set(me.children(recursive=True))
    with Verifier(workers=1, timeout=2) as impatient:
        assert verdict(impatient, "x+1", "\\boxed{1+x}") == "right"
        (child,) = {p for p in me.children(recursive=True) if p not in before and p.ppid() != me.pid}
        assert verdict(impatient, "2", "\\boxed{(x+1)^{9999}-x}") == "timeout"
        assert psutil.wait_procs([child], timeout=10)[1] == []
        assert verdict(impatient, "x+1", "\\boxed{1+x}") == "right"
    assert set(me.children(recursive=True)) <= before


@pytest.mark.parametrize("asked", [True, False])
def test_a_child_that_dies_takes_no_answer_with_it(asked: bool) -> None:
    """Killed from outside, as by the kernel when memory runs out: between two answers, or in the middle of one."""
    me = psutil.Process()
    before = set(me.children(recursive=True))
    with Verifier(workers=1, timeout=20) as verifier:
        assert verdict(verifier, "x+1", "\\boxed{1+x}") == "right"
        (child,) = {p for p in me.children(recursive=True) if p not in before and p.ppid() != me.pid}
        if asked:
            timer = threading.Timer(0.3, child.kill)
            timer.start()
            assert verdict(verifier, "2", "\\boxed{\\frac{a}{b}+\\frac{c}{d}+\\frac{e}{f}}") == "wrong"
            timer.join()
        else:
            child.kill()
        for gold, answer, expected in [("x+2", "2+x", "right"), ("x+2", "x+3", "wrong"), ("x+4", "4+x", "right")]:
            assert verdict(verifier, gold, f"\\boxed{{{answer}}}") == expected


def test_order_is_kept_and_workers_are_recycled() -> None:
    items = [(Problem("q", f"x+{i}"), f"\\boxed{{{i + i % 2}+x}}") for i in range(24)]
    with Verifier(workers=2, timeout=20, recycle=5) as verifier:
        grades = verifier.grade(items)
    assert [g.verdict.value for g in grades] == ["right", "wrong"] * 12


def test_many_calls_of_asyncio_share_the_workers(verifier: Verifier) -> None:
    async def both() -> list[list[Grade]]:
        calls = [[(Problem("q", f"x+{i}"), f"\\boxed{{{k}+x}}") for i in range(4)] for k in range(4)]
        return await asyncio.gather(*(verifier.grade_async(items) for items in calls))

    batches = asyncio.run(both())
    assert [[g.reward for g in grades] for grades in batches] == [[float(i == k) for i in range(4)] for k in range(4)]


def test_memory_is_bounded() -> None:
    hungry = "\\boxed{" + "+".join(f"x^{{{k}}}" for k in range(40)) + "}"
    with Verifier(workers=1, timeout=20, memory_mb=60) as small:  # less than the libraries themselves take
        assert small.grade([(Problem("q", "x"), hungry)])[0].reward == 0
    with Verifier(workers=1, timeout=20) as large:
        assert verdict(large, "x+1", "\\boxed{1+x}") == "right"


def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Verifier(workers=1) as verifier, pytest.raises(SrftError, match="did not start"):
        verdict(verifier, "x+1", "\\boxed{1+x}")


def test_hostile_answers_change_no_other() -> None:
    """A few hundred of what benchmarks/verifier.py runs by ten thousands."""
    good, hostile = good_items(120, seed=1), hostile_items(160, seed=1)
    items = [item for pair in zip([item for item, _ in good], hostile, strict=False) for item in pair]
    items += hostile[len(good) :]
    with Verifier(workers=1, timeout=20) as verifier:
        grades = verifier.grade(items)
        assert sum(verifier.counts.values()) == len(items) == 280
    assert [g.verdict.value for g in grades[: 2 * len(good) : 2]] == [expected for _, expected in good]
    rest = grades[1 : 2 * len(good) : 2] + grades[2 * len(good) :]
    assert [item for item, g in zip(hostile, rest, strict=True) if g.verdict == "right"] == []
    assert not Path("/tmp/srft-was-run").exists()


def test_an_answer_is_never_run(verifier: Verifier, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    verdict(verifier, "x", f"\\boxed{{__import__('os').system('touch {file}')}}")
    verdict(verifier, f"__import__('os').system('touch {file}')", "\\boxed{x}")
    assert not file.exists()


def test_a_killed_worker_is_replaced() -> None:
    before = set(psutil.Process().children())
    with Verifier(workers=1) as verifier:
        assert verdict(verifier, "x+1", "\\boxed{1+x}") == "right"
        (worker,) = set(psutil.Process().children()) - before
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait(10)
        assert verdict(verifier, "x+1", "\\boxed{1+x}") == "right"
    assert set(psutil.Process().children()) <= before


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_no_text_raises(verifier: Verifier, text: str) -> None:
    for whole in (text, f"\\boxed{{{text}}}"):
        assert verifier.grade([(Problem("q", "3"), whole)])[0].reward in (0.0, 1.0)


@given(st.integers(-(10**12), 10**12))
def test_plain_numbers_are_exact(value: int) -> None:
    assert plain_number(f"{value:,}") == plain_number(f"{value}.0") == value
    assert answer_of(f"a \\boxed{{{value}}} b") == str(value)


def test_the_parent_process_imports_no_mathematics() -> None:
    """Only the workers pay for it; and a worker must not pay for torch."""
    code = "import sys, srft.verify; print(*{'math_verify', 'sympy', 'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_reasoning_gym_scores_its_own_tasks(verifier: Verifier) -> None:
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: scripts/setup test")
    (problem,) = load_problems("reasoning-gym:chain_sum", options={"size": 1, "seed": 3})
    right, wrong = verifier.grade([(problem, f"\\boxed{{{problem.answer}}}"), (problem, "\\boxed{no idea}")])
    assert right.reward == 1
    assert wrong.reward < 1
    assert verifier.self_check([problem]) == []


def test_unknown_grader(verifier: Verifier) -> None:
    with pytest.raises(SrftError, match="Did you mean 'math'"):
        verifier.grade([(Problem("q", "1", grader="maths"), "1")])


def test_real_cases() -> None:
    """254 graded answers of the graders' own tests: nothing wrong passes, and few right answers fail."""
    rows = [json.loads(line) for line in shared("cases/grader_cases.jsonl").read_text().splitlines()]
    rows = [row for row in rows if not row["ambiguous"]]
    with Verifier(workers=2, timeout=30) as patient:  # the count must not hang on how busy the machine is
        grades = patient.grade([(Problem("q", r["gold"]), f"\\boxed{{{r['candidate']}}}") for r in rows])
    verdicts = [(grade.reward == 1, row["expected"]) for grade, row in zip(grades, rows, strict=True)]
    assert verdicts.count((True, False)) == 0
    assert verdicts.count((False, True)) <= 0.015 * len(rows)  # none at the time of writing


def test_recorded_responses() -> None:
    """800 real responses of a 7B model with another grader's scores; one of them it has wrong (10{,}000 and 10000)."""
    rows = [json.loads(line) for line in shared("data/qwen_math_cot_100.jsonl").read_text().splitlines()]
    items = [(Problem("q", row["gt"]), text) for row in rows for text in row["code"]]
    with Verifier(workers=1, timeout=20) as verifier:
        grades = verifier.grade(items)
    scores = [score for row in rows for score in row["score"]]
    assert sum((g.verdict == "right") != score for g, score in zip(grades, scores, strict=True)) <= 1


@pytest.mark.parametrize("name", [name for name, grader in GRADERS.items() if grader.shortcut])
@pytest.mark.parametrize(
    ("gold", "text"),
    [
        *(
            (gold, f"\\boxed{{{candidate}}}")
            for gold, candidate in [
                ("7", "7"), ("7", "7.0"), ("1,000", "1000"), ("0.5", "0.50"), ("+3", "3"), ("3", "4"), ("-2", "2"),
                ("10", "100"), ("1,234,567", "1234567.0"), ("10", "010"), ("0.1", "0.10001"),
                ("x+1", "x+1"), ("7", "9" * 2001),
            ]
        ),
        ("7", "it is 7"),
        ("7", "<think>\\boxed{7}"),
    ],
)  # fmt: skip
def test_the_fast_path_decides_as_the_worker_does(name: str, gold: str, text: str) -> None:
    """What never reaches a worker has the grade that the grader itself would have given."""
    grader, request = GRADERS[name], Request(name, gold, text)
    assert grader.shortcut is not None
    fast = grader.shortcut(request)
    assert fast is not None
    assert fast == grader.grade(request)


def test_the_fast_path_leaves_algebra_to_the_worker() -> None:
    shortcuts = [grader.shortcut for grader in GRADERS.values() if grader.shortcut]
    assert shortcuts
    for gold, candidate in [("\\frac{1}{2}", "0.5"), ("x+1", "1+x"), ("2", "x=2"), ("10", "10\\%"), ("10", "1,0")]:
        assert not any(shortcut(Request("math", gold, f"\\boxed{{{candidate}}}")) for shortcut in shortcuts)
