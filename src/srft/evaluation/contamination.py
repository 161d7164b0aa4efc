"""Do training prompts contain benchmark problems? The overlap of their word n-grams says so."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from srft.console import safe_console
from srft.data.load import load_problems
from srft.data.problem import Problem
from srft.errors import SrftError
from srft.evaluation.benchmarks import choose
from srft.evaluation.load import load_benchmark

N = 13  # words of an n-gram; a shorter problem counts only where a training prompt is word for word the same
EXAMPLES = 10


class Covered(NamedTuple):
    """A problem of a benchmark that a training prompt repeats.

    Args:
        problem: its number in the benchmark.
        share: of its n-grams that one training prompt has, of 1.
        where: that training prompt stands.
    """

    problem: int
    share: float
    where: str


class _Place(NamedTuple):
    """A problem among all benchmarks."""

    benchmark: str
    problem: int


@dataclass(frozen=True)
class Overlap:
    """What of one benchmark stands in the training prompts.

    Args:
        problems: of the benchmark.
        flagged: problems of which at least one n-gram is found in a training prompt.
        half: those of which at least half of the n-grams are found in a single one.
        exact: those that a training prompt repeats word for word.
        n: words of an n-gram.
        worst: the most covered problems.
    """

    problems: int
    flagged: int
    half: int
    exact: int
    n: int
    worst: tuple[Covered, ...]

    def to_json(self) -> dict[str, Any]:
        """As it is recorded."""
        return asdict(self)


def overlap(training: Iterable[Problem], benchmarks: Mapping[str, Sequence[Problem]], n: int = N) -> dict[str, Overlap]:
    """The overlap of each set of problems with the prompts of `training`, which is read once.

    Args:
        n: words of an n-gram.
    """
    if n < 1:
        raise SrftError("an n-gram has at least one word", where="--n", fix="Give 8 to 13.")
    grams: dict[int, set[_Place]] = defaultdict(set)  # hash of an n-gram → the problems that hold it
    whole: dict[str, list[_Place]] = defaultdict(list)
    sizes: dict[_Place, int] = {}
    for name, problems in benchmarks.items():
        for i, problem in enumerate(problems):
            words, place = _words(_question(problem)), _Place(name, i)
            whole[" ".join(words)].append(place)
            own = set(_grams(words, n))
            sizes[place] = len(own)
            for gram in own:
                grams[gram].add(place)
    best: dict[_Place, Covered] = {}
    exact: set[_Place] = set()
    for prompt in training:
        words = _words(_question(prompt))
        hits: dict[_Place, int] = defaultdict(int)
        for gram in set(_grams(words, n)):
            for place in grams.get(gram, ()):
                hits[place] += 1
        for place in whole.get(" ".join(words), ()) if words else ():
            exact.add(place)
            best[place] = Covered(place.problem, 1.0, prompt.where)
        for place, count in hits.items():
            share = count / sizes[place]
            if place not in best or share > best[place].share:
                best[place] = Covered(place.problem, share, prompt.where)
    return {name: _summary(name, len(problems), best, exact, n) for name, problems in benchmarks.items()}


def contamination(
    training: str,
    benchmarks: str,
    *,
    split: str = "train",
    data_dir: Path | None = None,
    n: int = N,
) -> dict[str, Overlap]:
    """The overlap of a training set (whatever `data.path` of a recipe takes) with benchmarks."""
    choices = choose(benchmarks)
    prompts = load_problems(training, split=split)
    return overlap(prompts, {c.name: load_benchmark(c, data_dir=data_dir).problems for c in choices}, n)


def warning(overlaps: Mapping[str, Overlap]) -> str:
    """In a line, which sets have problems that training prompts repeat in half or more; "" if none has."""
    parts = [f"{name} {o.half} of {o.problems} ({o.exact} word for word)" for name, o in overlaps.items() if o.half]
    return f"In the training prompts stand problems of evaluation sets: {', '.join(parts)}" if parts else ""


def show(console: Console, overlaps: Mapping[str, Overlap]) -> None:
    """A line a benchmark, then the most covered problems."""
    console = safe_console(console)
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(("benchmark", "problems", "any n-gram", "half of them", "word for word")):
        table.add_column(name, justify="right" if i else "left")
    for name, o in overlaps.items():
        table.add_row(name, str(o.problems), str(o.flagged), str(o.half), str(o.exact))
    console.print(table)
    for name, o in overlaps.items():
        for covered in o.worst:
            line = f"{name} {covered.problem}: {covered.share:.0%} in {covered.where}"
            console.print(line, highlight=False)


def _summary(name: str, problems: int, best: Mapping[_Place, Covered], exact: set[_Place], n: int) -> Overlap:
    covered = sorted(
        (one for place, one in best.items() if place.benchmark == name), key=lambda one: (-one.share, one.problem)
    )
    copies = sum(place.benchmark == name for place in exact)
    half = sum(one.share >= 0.5 for one in covered)
    return Overlap(problems, len(covered), half, copies, n, tuple(covered[:EXAMPLES]))


def _question(problem: Problem) -> str:
    """The question alone: a system message is in every prompt, and options stand in another order in every file. Plain
    text is all question."""
    text = problem.prompt or "".join(problem.demonstrations)
    if not isinstance(text, str):
        text = "\n".join(m["content"] for m in text if m["role"] != "system")
    return text.split("\n\nA. ")[0] if problem.metadata.get("options") else text


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _grams(words: Sequence[str], n: int) -> Iterable[int]:
    return (hash(tuple(words[i : i + n])) for i in range(len(words) - n + 1))
