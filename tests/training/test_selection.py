"""Selections of the policy's own samples: what is kept, and that entropy and branching factor are the model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from srft.data import Problem, load_problems
from srft.errors import SrftError
from srft.evaluation.token_statistics import TokenStatistics, measure_inputs
from srft.policy.forward import Policy
from srft.policy.micro_batch import ModelInput
from srft.training.selection import (
    Candidate,
    needs_scores,
    read_selection,
    select,
    write_selection,
)
from srft.training.settings import SelectionSettings


def candidates(right: int = 6, wrong: int = 40, prompts: int = 10) -> list[Candidate]:
    return [
        Candidate(Problem(f"prompt {p}", str(p)), f"{p}: {kind} {i}", kind == "right", TokenStatistics(i / 10, 10 - i))
        for p in range(prompts)
        for kind, count in (("right", right), ("wrong", wrong))
        for i in range(count)
    ]


def texts(problems: list[Problem]) -> set[str]:
    return {p.demonstrations[0] for p in problems}


def test_correct_keeps_every_right_sample_once() -> None:
    every = candidates()
    assert texts(select(every + every, SelectionSettings(), 0)) == {c.text for c in every if c.is_correct}
    assert len(select(every + every, SelectionSettings(), 0)) == 60


@pytest.mark.parametrize(("keep", "kept"), [("entropy", {3, 4, 5}), ("rbf", {0, 1, 2})])
def test_the_highest_of_each_prompt_are_kept(keep: Any, kept: set[int]) -> None:
    assert texts(select(candidates(), SelectionSettings(keep=keep, top=0.5), 0)) == {
        f"{p}: right {i}" for p in range(10) for i in kept
    }
    assert len(select(candidates(), SelectionSettings(keep=keep, top=0.01), 0)) == 10  # at least one of each prompt


@pytest.mark.parametrize(("keep", "right"), [("noise", 60), ("noise+rbf", 30)])
def test_noise_is_its_share_of_what_is_kept(keep: Any, right: int) -> None:
    kept = texts(select(candidates(), SelectionSettings(keep=keep, noise=0.2), 0))
    wrong = {t for t in kept if "wrong" in t}
    assert len(kept - wrong) == right
    assert len(wrong) / len(kept) == pytest.approx(0.2, abs=0.02)
    assert wrong != {t for t in texts(select(candidates(), SelectionSettings(keep=keep, noise=0.2), 1)) if "wrong" in t}


def test_pairs_have_a_right_and_a_wrong_sample_of_one_prompt() -> None:
    pairs = select(candidates(right=2, wrong=3), SelectionSettings(keep="pairs"), 0)
    assert len(pairs) == 20
    for pair in pairs:
        assert "right" in pair.demonstrations[0]
        assert "wrong" in pair.rejected
        assert pair.rejected.startswith(pair.demonstrations[0].split(":")[0])


@pytest.mark.parametrize("keep", ["correct", "pairs"])
def test_nothing_to_keep_is_an_error(keep: Any) -> None:
    with pytest.raises(SrftError, match=r"data\.selection"):
        select(candidates(right=0), SelectionSettings(keep=keep), 0)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    pairs = select(candidates(right=2, wrong=3), SelectionSettings(keep="pairs"), 0)
    write_selection(tmp_path / "pairs.jsonl", pairs)
    again = load_problems(str(tmp_path / "pairs.jsonl"))
    assert [(p.prompt, p.answer, p.demonstrations, p.rejected) for p in again] == [
        (p.prompt, p.answer, p.demonstrations, p.rejected) for p in pairs
    ]
    chat = Problem(({"role": "user", "content": "2 + 3?"},), "5", ("It is 5.",))
    write_selection(tmp_path / "chat.jsonl", [chat])
    (back,) = read_selection(tmp_path / "chat.jsonl")
    assert (back.prompt, back.answer, back.demonstrations, back.rejected) == (chat.prompt, "5", ("It is 5.",), "")


def test_scores_are_the_models_own(model: Any) -> None:
    inputs = [
        ModelInput((5, 6), (7, 8, 9), 0),
        ModelInput((5,), (10, 11), 1, temperature=0.5),
        ModelInput((3, 4, 5), (6,), 2),
    ]
    scores = measure_inputs(Policy(model).eval(), inputs, 12, 0)
    for one, score in zip(inputs, scores, strict=True):
        with torch.no_grad():
            ids = torch.tensor([[*one.prompt_ids, *one.response_ids]])
            logits = model(ids).logits[0, len(one.prompt_ids) - 1 : -1]
        probs = (logits / one.temperature).softmax(-1)
        assert score.entropy == pytest.approx(float(torch.distributions.Categorical(probs).entropy().mean()), rel=1e-4)
        sizes = []
        for p in probs:
            total, size = 0.0, 0
            for x in sorted(p.tolist(), reverse=True):
                total, size = total + x, size + 1
                if total >= 0.95:
                    break
            sizes.append(size)
        assert score.rbf == pytest.approx(sum(sizes) / len(sizes))


def test_scores_are_measured_where_the_selection_sorts_by_them() -> None:
    sorting = [
        k
        for k in ("correct", "noise", "entropy", "rbf", "noise+rbf", "pairs")
        if needs_scores(SelectionSettings(keep=k))
    ]
    assert sorting == ["entropy", "rbf", "noise+rbf"]
