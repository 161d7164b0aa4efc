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

import torch

from srft.data import TEMPLATES, Problem, load_problems, tokenize_problems
from srft.errors import SrftError
from srft.objective import branching_factor
from srft.policy import Pair, Policy, cut, load_model, load_tokenizer, pad_token
from srft.recipe import Selection, load_recipe
from srft.seed import derive_seed
from srft.training.run_dir import RunDir


@dataclass(frozen=True)
class Candidate:
    """A graded sample.

    Args:
        problem: what it answers.
        text: the response.
        right: the verifier's verdict.
        entropy: mean token entropy (nats); branching: mean rollout branching factor; where they are asked for.
    """

    problem: Problem
    text: str
    right: bool
    entropy: float = 0.0
    branching: float = 0.0


def select(candidates: Sequence[Candidate], how: Selection, seed: int) -> list[Problem]:
    """The selection as problems whose demonstration is the sample; for `pairs` with the rejected one beside it.

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
        right, wrong = [c for c in group if c.right], [c for c in group if not c.right]
        pairs += [
            replace(good.problem, demonstrations=(good.text,), rejected=bad.text)
            for good, bad in zip(right, wrong, strict=False)
        ]
        if how.keep in ("entropy", "rbf", "noise+rbf"):
            by = "entropy" if how.keep == "entropy" else "branching"
            right.sort(key=lambda c: -getattr(c, by))
            right = right[: math.ceil(how.top * len(right))]
        chosen += right
    if how.keep in ("noise", "noise+rbf"):
        wrong = [c for group in groups.values() for c in group if not c.right]
        count = min(round(len(chosen) * how.noise / (1 - how.noise)), len(wrong))
        chosen += generator.sample(wrong, count)
    found = pairs if how.keep == "pairs" else [replace(c.problem, demonstrations=(c.text,)) for c in chosen]
    if not found:
        what = "no prompt has both a right and a wrong sample" if how.keep == "pairs" else "no sample is right"
        raise SrftError(
            f"of {len(candidates)} samples none can be kept: {what}",
            where="data.selection",
            fix="Raise data.selection.n, or begin with a stage that teaches the policy a little.",
        )
    return found


def needs_scores(how: Selection) -> bool:
    """Whether samples must be scored by entropy and branching factor first."""
    return how.keep in ("entropy", "rbf", "noise+rbf")


@torch.no_grad()
def score(policy: Any, pairs: Sequence[Pair], tokens: int, pad_token_id: int) -> list[tuple[float, float]]:
    """(mean token entropy, mean branching factor) of each pair's response; pairs are numbered from 0 by `row`."""
    device = next(policy.parameters()).device
    sums = torch.zeros(len(pairs), 2, dtype=torch.float64)
    for batch in cut(pairs, tokens, pad_token_id):
        _, entropy, found = policy(batch.to(device), {"rbf": branching_factor})
        values = torch.stack([entropy.double(), found["rbf"].double()], 1).cpu()
        sums.index_add_(0, batch.row, values)
    lengths = torch.tensor([[len(p.response)] for p in sorted(pairs, key=lambda p: p.row)]).clamp(min=1)
    return [(float(h), float(b)) for h, b in sums / lengths]


def saved_candidates(run: RunDir, how: Selection, model: str | None = None) -> list[Candidate]:
    """The rollouts that a run saved, scored where `how` needs it by `model` (its newest checkpoint if left out).

    Raises:
        SrftError: it saved none.
    """
    files = sorted(run.path.glob("rollouts/step-*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if not row["is_demo"]]
    if not rows:
        raise SrftError("no saved rollouts", where=f"{run.path}/rollouts", fix="Name the directory of a run with RL.")
    problems = [Problem(_prompt(row["prompt"]), row["answer"]) for row in rows]
    scores = [(0.0, 0.0)] * len(rows)
    if needs_scores(how):
        recipe = load_recipe(run.path / "recipe.yaml")
        path = model or str(run.checkpoint)
        tokenizer, template = load_tokenizer(path), TEMPLATES[recipe.data.template]
        limits = {"max_prompt_length": 10**9, "max_response_length": 10**9}
        prompts, _ = tokenize_problems(problems, tokenizer, template=template, **limits)  # type: ignore[arg-type]
        pairs = []
        for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            ids = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
            pairs.append(Pair(prompt.ids, [*ids, tokenizer.eos_token_id] if row["finished"] else ids, i))
        policy = Policy(load_model(path), recipe.rollout.temperature).eval()
        policy.to("cuda" if torch.cuda.is_available() else "cpu")
        scores = score(policy, pairs, recipe.training.tokens_per_micro_batch, pad_token(tokenizer))
    return [
        Candidate(problem, row["response"], row["score"] >= 1, *s)
        for problem, row, s in zip(problems, rows, scores, strict=True)
    ]


def _prompt(value: Any) -> Any:
    return value if isinstance(value, str) else tuple(value)


def write(path: Path, problems: Sequence[Problem]) -> None:
    """As JSONL that `data.path` reads: prompt, answer, and completion or chosen and rejected."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for p in problems:
            prompt = p.prompt if isinstance(p.prompt, str) else [dict(m) for m in p.prompt]
            (text,) = p.demonstrations
            rest = {"chosen": text, "rejected": p.rejected} if p.rejected else {"completion": text}
            file.write(json.dumps({"prompt": prompt, "answer": p.answer, **rest}, ensure_ascii=False) + "\n")
    partial.replace(path)


def read(path: Path) -> list[Problem]:
    """What `write` wrote."""
    return load_problems(str(path.absolute()))


def _key(problem: Problem) -> str:
    return problem.prompt if isinstance(problem.prompt, str) else json.dumps([dict(m) for m in problem.prompt])
