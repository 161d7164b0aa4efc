"""The examples: the whole of it in one page, and a method of ours by another trainer."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from srft.data import load_problems
from srft.objective import Responses, Tokens, get_method
from srft.policy.forward import Policy
from srft.policy.micro_batch import ModelInput, pad
from tests.helpers import ROOT, python

FILE = ROOT / "examples/minimal.py"


def test_the_minimal_example_trains_a_step() -> None:
    result = python(FILE, "--steps", "1", "--prompts", "2", "--rollouts", "2", "--problems", "2")
    assert result.returncode == 0, result.stderr
    before, step, after = result.stdout.splitlines()
    scores = [
        re.fullmatch(rf"{word}: avg@4 (\d\.\d{{3}})", line) for word, line in (("before", before), ("after", after))
    ]
    reward = re.fullmatch(r"step 1: reward (\d\.\d{3}), loss -?\d+\.\d{3}", step)
    for match in (*scores, reward):
        assert match, result.stdout
        assert 0 <= float(match[1]) <= 1


def test_the_minimal_example_is_one_page() -> None:
    assert len(FILE.read_text().splitlines()) < 120


def loaded(file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


OWN_LOOP = ROOT / "examples/own_loop.py"


def test_a_loop_of_ones_own_trains_a_step() -> None:
    result = python(OWN_LOOP, "--steps", "1", "--prompts", "2", "--rollouts", "2")
    assert result.returncode == 0, result.stderr
    match = re.fullmatch(r"step 1: reward (\d\.\d{3}), loss -?\d+\.\d{3}", result.stdout.strip())
    assert match
    assert 0 <= float(match[1]) <= 1


def test_a_loop_of_ones_own_scores_the_tokens_that_we_score(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loaded(OWN_LOOP, monkeypatch)
    torch.manual_seed(0)
    problems = load_problems("srft:arithmetic/train.jsonl", limit=2)
    rows = module.sample(model, tokenizer, problems, 3, 40)
    assert [row.is_demo for row in rows] == [False, False, False, True] * 2
    size = len(rows)
    length = torch.tensor([len(row.response) for row in rows])
    table = Responses(torch.zeros(size), torch.zeros(size), torch.zeros(size).bool(), length, limit=40)
    t = module.tokens(model, rows, table)
    inputs = [ModelInput(row.prompt.tolist(), row.response.tolist(), i) for i, row in enumerate(rows)]
    ours = Policy(model)(pad(inputs, 0))
    for i, row in enumerate(rows):
        torch.testing.assert_close(t.logp[t.row == i], ours.logp[length[:i].sum() : length[: i + 1].sum()])
        torch.testing.assert_close(t.entropy[t.row == i], ours.entropy[length[:i].sum() : length[: i + 1].sum()])
        drawn = row.response.tolist()
        assert tokenizer.eos_token_id not in drawn[:-1]


TRL = ROOT / "examples/trl_demonstrations.py"


@pytest.mark.parametrize("method", ["srft", "luffy"])
def test_trl_learns_by_our_method(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient that TRL's optimizer gets is that of the method's own terms on the same responses."""
    pytest.importorskip("trl", reason="TRL is not installed: scripts/setup test")
    module = loaded(TRL, monkeypatch)
    seen: dict[str, Any] = {}
    trainer = module.make_trainer(
        method, prompts=2, rollouts=3, output_dir=str(tmp_path), max_steps=1, save_strategy="no", disable_tqdm=True,
        per_device_train_batch_size=2, gradient_accumulation_steps=4, max_grad_norm=1e9, learning_rate=0.0,
        gradient_checkpointing=False, use_cpu=True,
    )  # fmt: skip
    draw = trainer._generate_and_score_completions
    monkeypatch.setattr(trainer, "_generate_and_score_completions", lambda rows: seen.setdefault("batch", draw(rows)))

    def learnt(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        seen["gradient"] = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}

    trainer.create_optimizer().register_step_pre_hook(learnt)
    trainer.train()
    module.VERIFIER.close()

    batch, policy = seen["batch"], Policy(trainer.model)
    kept = [(ids[keep.bool()].tolist(), completion[mask.bool()].tolist()) for ids, keep, completion, mask in zip(
        batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"], batch["completion_mask"], strict=True
    )]  # fmt: skip
    demonstrations = [row["demonstration_ids"] for row in trainer.rows]
    assert [kept[i][1] == demonstrations[i] for i in (3, 7)] == [True, True]  # a group's last response
    micro_batch = pad([ModelInput(*pair, row) for row, pair in enumerate(kept)], 0)
    table = Responses(
        torch.tensor(list(trainer._logs["rewards"]["reward"])), torch.tensor([0] * 4 + [1] * 4),
        torch.tensor([False, False, False, True] * 2), torch.tensor([len(ids) for _, ids in kept]), limit=160,
    )  # fmt: skip
    trainer.model.zero_grad()
    values = policy(micro_batch)
    terms = get_method(method)(Tokens(values.logp, values.entropy, micro_batch.row, table), **trainer.options)
    torch.stack(list(terms.values())).sum().backward()
    own = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    assert seen["gradient"].keys() == own.keys()
    assert sum(float(g.norm()) for g in own.values()) > 0.1
    for name in own:
        torch.testing.assert_close(seen["gradient"][name], own[name], rtol=1e-3, atol=1e-5)


def test_the_trl_example_is_short() -> None:
    assert len(TRL.read_text().splitlines()) < 80
