"""Selection: which of the policy's own graded samples become demonstrations, or pairs (exploration study, §4.2).

No numbers were published for the selections; what is left open is decided here and named in the docstrings."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srft.data.files import write_rows
from srft.data.load import load_problems
from srft.data.problem import Problem
from srft.errors import SrftError
from srft.evaluation.token_statistics import TokenStatistics
from srft.seed import derive_seed
from srft.training.settings import SelectionSettings

UNSCORED = TokenStatistics()


@dataclass(frozen=True)
class Candidate:
    """A graded sample.

    Args:
        problem: what it answers.
        text: the response.
        is_correct: the verifier's verdict.
        score: where it is asked for.
    """

    problem: Problem
    text: str
    is_correct: bool
    score: TokenStatistics = UNSCORED


def select(candidates: Sequence[Candidate], how: SelectionSettings, seed: int) -> list[Problem]:
    """The selection as problems whose demonstration is the sample; for `pairs` with the rejected one added.

    correct: every right sample. entropy, rbf: of each prompt's right samples the `top` share with the highest mean, at
    least one. noise: wrong samples, drawn at random, make up a `noise` share of the selection. pairs: each prompt's
    right samples with as many of its wrong ones. Equal samples of a prompt count once.

    Raises:
        SrftError: nothing is left.
    """
    generator = random.Random(derive_seed(seed, "selection"))
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in {(_key(c.problem), c.text): c for c in candidates}.values():
        groups[_key(candidate.problem)].append(candidate)
    chosen: list[Candidate] = []
    pairs: list[Problem] = []
    for group in groups.values():
        right, wrong = [c for c in group if c.is_correct], [c for c in group if not c.is_correct]
        pairs += [
            replace(good.problem, demonstrations=(good.text,), rejected=bad.text)
            for good, bad in zip(right, wrong, strict=False)
        ]
        if how.keep in ("entropy", "rbf", "noise+rbf"):
            by = "entropy" if how.keep == "entropy" else "rbf"
            right.sort(key=lambda c: -getattr(c.score, by))
            right = right[: math.ceil(how.top * len(right))]
        chosen += right
    if how.keep in ("noise", "noise+rbf"):
        wrong = [c for group in groups.values() for c in group if not c.is_correct]
        count = min(round(len(chosen) * how.noise / (1 - how.noise)), len(wrong))
        chosen += generator.sample(wrong, count)
    selected = pairs if how.keep == "pairs" else [replace(c.problem, demonstrations=(c.text,)) for c in chosen]
    if not selected:
        what = "no prompt has both a right and a wrong sample" if how.keep == "pairs" else "no sample is right"
        raise SrftError(
            f"of {len(candidates)} samples none can be kept: {what}",
            where="data.selection",
            fix="Raise data.selection.n, or begin with a stage that teaches the policy a little.",
        )
    return selected


def needs_scores(how: SelectionSettings) -> bool:
    """Whether samples must be scored by entropy and branching factor first."""
    return how.keep in ("entropy", "rbf", "noise+rbf")


def write_selection(path: Path, problems: Sequence[Problem]) -> None:
    """As JSONL that `data.path` reads: prompt, answer, and completion or chosen and rejected."""
    write_rows(path, map(_row, problems))


def read_selection(path: Path) -> list[Problem]:
    """What `write_selection` wrote."""
    return load_problems(str(path.absolute()))


def _row(problem: Problem) -> dict[str, Any]:
    prompt = problem.prompt if isinstance(problem.prompt, str) else [dict(m) for m in problem.prompt]
    (text,) = problem.demonstrations
    rest = {"chosen": text, "rejected": problem.rejected} if problem.rejected else {"completion": text}
    return {"prompt": prompt, "answer": problem.answer, **rest}


def _key(problem: Problem) -> str:
    return problem.prompt if isinstance(problem.prompt, str) else json.dumps([dict(m) for m in problem.prompt])
