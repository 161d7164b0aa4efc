"""Answers made to hang, crash, fill or fool a grader; used by `benchmarks/verifier.py` and the tests."""

from __future__ import annotations

import random
from collections.abc import Callable

from srft.data import Problem

Item = tuple[Problem, str]


def good_items(count: int, seed: int) -> list[tuple[Item, str]]:
    """Honest answers with the verdicts they must get: numbers, fractions, expressions, lists, intervals, words."""
    draw = random.Random(seed)
    makers: list[Callable[[int, int], tuple[str, str, str]]] = [
        lambda a, b: (str(a), f"{a:,}", f"{a + b}"),
        lambda a, b: (f"\\frac{{{a}}}{{{b}}}", f"\\dfrac{{{2 * a}}}{{{2 * b}}}", f"\\frac{{{a + 1}}}{{{b}}}"),
        lambda a, b: (f"{a}x+{b}", f"{b} + {a}x", f"{a}x-{b}"),
        lambda a, b: (
            f"{a}\\sqrt{{{b + 1}}}",
            f"{a}\\sqrt{b + 1}" if b < 8 else f"\\sqrt{{{b + 1}}}\\cdot {a}",
            str(a),
        ),
        lambda a, b: (f"{a},{-b}", f"{-b}, {a}", f"{a}, {b + 1}"),
        lambda a, b: (f"({-b},{a}]", f"{-b} < x \\le {a}", f"[{-b},{a}]"),
        lambda a, b: (f"{a}\\text{{ cm}}", f"{a} \\mathrm{{~cm}}", f"{a}\\text{{ m}}"),
        lambda a, b: ("\\text{even}", "even", "odd"),
    ]
    items = []
    for _ in range(count):
        a, b = draw.randint(100, 99_999), draw.randint(1, 99)
        gold, right, wrong = draw.choice(makers)(a, b)
        fine = draw.random() < 0.5
        text = f"<think>\nlet me see \\boxed{{{b}}}</think>\nThe answer is \\boxed{{{right if fine else wrong}}}."
        items.append(((Problem("q", gold), text), "right" if fine else "wrong"))
    return items


def hostile_items(count: int, seed: int) -> list[Item]:
    """Attacks of every kind in turn, each a little different, none of them right."""
    draw = random.Random(seed)
    kinds = hostile_answers(draw)
    return [(Problem("q", "2"), kinds[i % len(kinds)]()) for i in range(count)]


def hostile_answers(draw: random.Random) -> list[Callable[[], str]]:
    """One maker of responses for each kind of attack."""

    def n() -> int:
        return draw.randint(3, 9)

    def boxed(text: str) -> str:
        return f"\\boxed{{{text}}}"

    return [
        lambda: boxed(f"{n()}^{{{n()}^{{{n()}^{{{n()}}}}}}}"),  # power towers
        lambda: boxed(f"{n()}**{n()}**{n()}**{n()}"),
        lambda: boxed(f"{n()}^{n()}^{n()}^{n()}"),
        lambda: boxed(f"(({n()}^{{9999}})^{{9999}})^{{9999}}"),
        lambda: boxed(f"10^{{{draw.randint(10**6, 10**9)}}}"),
        lambda: boxed(f"{n()}!!!!!"),  # factorial chains
        lambda: boxed(f"{draw.randint(10**7, 10**8)}!"),
        lambda: boxed(f"((({n()}!)!)!)!"),
        lambda: boxed(f"\\binom{{{draw.randint(10**8, 10**9)}}}{{{draw.randint(10**7, 10**8)}}}"),
        lambda: boxed("9" * 10**6),  # 10^6 characters
        lambda: "a" * 10**6 + boxed(str(n())),
        lambda: boxed("x+" * 500_000 + "1"),
        lambda: boxed("(" * 5000 + "5" + ")" * 5000),  # parentheses
        lambda: boxed("(" * 5000),
        lambda: boxed("{" * 900 + "5" + "}" * 900),
        lambda: boxed("\\sqrt{" * 60 + str(n()) + "}" * 60),
        lambda: "\\boxed{" * 5000,
        lambda: boxed("\\frac{1}{" * 200 + "2" + "}" * 200),
        lambda: boxed(f"{n()}\x00{n()}\x00"),  # bytes that are no text
        lambda: boxed("\ud800\udfff" * n()),
        lambda: boxed(b"\xff\xfe\xc3(2".decode("utf-8", "surrogateescape")),
        lambda: boxed("\u202e2\u0301" * n()),
        lambda: f"\\boxed{{2}} \\boxed{{{n()}}}",  # boxes that are not the answer
        lambda: f"<think>\\boxed{{2}}</think> {boxed(str(n()))}",
        lambda: "<think>\\boxed{2}",
        lambda: "<think>\\boxed{2}</think>",
        lambda: "\\boxed{2",
        lambda: f"\\boxed{{2}} and \\boxed{{{n()}}}",
        lambda: boxed("__import__('os').system('touch /tmp/srft-was-run')"),  # code
        lambda: boxed("().__class__.__bases__[0].__subclasses__()"),
        lambda: boxed("exec(\"open('/tmp/srft-was-run','w')\")"),
        lambda: boxed("lambda: 2") + "\nprint(2)",
        lambda: boxed("2; import os; os.abort()"),
        lambda: boxed('"right"], ["id'),
        lambda: boxed(f"\\sum_{{k=1}}^{{{n()}00000000}} k^{{k}}"),  # long sums
        lambda: boxed("+".join(f"\\sin({i}x)" for i in range(300))),
        lambda: boxed(f"\\text{{2 or {n()}}}"),
        lambda: boxed("2, " * 300 + str(n())),
        lambda: boxed("2 = 3 = " * 50 + str(n())),
        lambda: "",
    ]


def slow_items() -> list[Item]:
    """Answers that pass every filter and still keep sympy busy for longer than a deadline."""
    return [(Problem("q", "2"), f"\\boxed{{{text}}}") for text in ("(x+1)^{9999}-x", "(x+y+z+1)^{9999}-x")]
