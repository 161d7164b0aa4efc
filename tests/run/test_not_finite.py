"""Runs whose numbers are not finite: they end with an error, and no such model is saved or evaluated."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from srft import Run, SrftError, load_recipe, train
from srft.cli import app
from srft.data import resolve_path
from srft.training.finite import MOST_SKIPPED
from srft.training.run_dir import RunDir
from tests.helpers import ROOT, python, weights

SMALL = [
    "training.prompts_per_step=2", "training.tokens_per_micro_batch=1500", "rollout.n=2", "training.device=cpu",
    "rollout.max_response_length=160", "evaluation.sets={}", "logging.samples_every=0", "data.limit=32",
    "verify.workers=1",
]  # fmt: skip
BROKEN = """
from srft import method
from srft.objective import nll

@method("broken-at", needs={{"demonstrations"}})
def broken(t, *, first: int = 1, last: int = 1000):
    here = first <= t.responses.step <= last
    return {{"broken": {term}}}
"""
LOSS = "nll(t.demo) + (float('nan') if here else 0.0)"
GRADIENT = "nll(t.demo) + ((t.demo.logp - t.demo.logp.detach()).abs().sqrt().sum() if here else 0.0)"  # slope ∞ at 0


def run(out: Path, *changes: str, term: str = LOSS, console: Console | None = None) -> Run:
    """Of a method whose loss or gradient is not finite between its steps `first` and `last`."""
    file = out.with_suffix(".py")
    file.write_text(BROKEN.format(term=term))
    words = [*SMALL, "method.name=broken-at", f"method.file={file}", *changes]
    return train(load_recipe("quickstart", words), out, console=console)


@pytest.mark.parametrize("term", [LOSS, GRADIENT], ids=["loss", "gradient"])
def test_one_such_update_is_left_out_and_told(tmp_path: Path, term: str) -> None:
    console = Console(width=200, file=io.StringIO())
    steps = ["method.first=2", "training.steps=2", "training.checkpoint_every=1"]
    done = run(tmp_path / "run", *steps, term=term, console=console)
    assert [row["skipped_updates"] for row in done.metrics] == [0, 1]
    first, second = (weights(folder) for folder in done.directory.checkpoints)
    assert all(torch.equal(first[k], second[k]) for k in first)
    (warning,) = done.directory.warnings
    assert (warning["step"], warning["name"]) == (2, "skipped_updates")
    assert ["warning/skipped_updates" in row for row in done.metrics] == [False, True]
    shown = console.file.getvalue()
    assert shown.count("Warning: skipped_updates: 1 updates") == 1
    assert f"1 warning: skipped_updates (step 2); srft doctor {tmp_path / 'run'} explains" in shown


def test_several_in_a_row_end_the_run_at_its_last_good_checkpoint(tmp_path: Path) -> None:
    """None is saved while updates are left out: the weights may be why."""
    with pytest.raises(SrftError, match=f"the last {MOST_SKIPPED} updates were skipped") as error:
        run(tmp_path / "run", "method.first=2", "training.steps=9", "training.checkpoint_every=1")
    assert error.match("The last good checkpoint is .*step-000001: --resume continues")
    assert len(RunDir(tmp_path / "run").metrics) == 1 + MOST_SKIPPED
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "bad  skipped_updates" in result.output


def test_a_short_run_without_any_update_is_none(tmp_path: Path) -> None:
    with pytest.raises(SrftError, match="No checkpoint was saved before"):
        run(tmp_path / "run", "training.steps=2")
    assert not RunDir(tmp_path / "run").checkpoints


@pytest.mark.parametrize(
    ("method", "lr", "steps", "error"),
    [
        ("sft", "1e10", 1 + MOST_SKIPPED, f"step 6: the last {MOST_SKIPPED} updates were skipped"),
        ("srft", "1e10", 2, "logits are NaN or infinite"),
        ("sft", "1e39", 1, "step 1: the weights model.* and .* others hold NaN or infinity\nNothing was saved of it"),
    ],
)
def test_a_rate_that_breaks_the_model_ends_the_run(
    tmp_path: Path, method: str, lr: str, steps: int, error: str
) -> None:
    """Nothing of it is saved, so nothing of it is evaluated."""
    evaluated = ["evaluation.sets={test: {path: 'srft:arithmetic/test.jsonl', limit: 2}}", "evaluation.at_start=false"]
    words = [*SMALL, *evaluated, f"method.name={method}", f"optim.lr={lr}", "optim.schedule=constant", "optim.warmup=0"]
    with pytest.raises(SrftError, match=error):
        train(load_recipe("quickstart", [*words, f"training.steps={steps}"]), tmp_path / "run")
    directory = RunDir(tmp_path / "run")
    assert not directory.checkpoints
    assert not directory.evaluations


def test_a_model_with_nan_is_refused_by_its_weights_name(tmp_path: Path) -> None:
    folder = Path(resolve_path("srft:model"))
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    name, weight = list(model.named_parameters())[3]
    with torch.no_grad():
        weight.view(-1)[7] = torch.inf
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "broken")
    recipe = load_recipe("quickstart", [*SMALL, "training.steps=1", f"model.path={tmp_path / 'broken'}"])
    with pytest.raises(SrftError, match=rf"model\.path: .*broken: the weights {name} hold NaN or infinity"):
        train(recipe, tmp_path / "run")
    assert not RunDir(tmp_path / "run").metrics


@pytest.mark.parametrize(
    "change",
    ["optim.lr=inf", "optim.lr=.nan", "optim.max_grad_norm=.inf", "training.epochs=inf", "method.scale_rl=.nan",
     "optim.betas=[0.9, .nan]", "verify.timeout=inf"],
)  # fmt: skip
def test_a_recipes_numbers_are_finite(change: str) -> None:
    with pytest.raises(SrftError, match="finite"):
        load_recipe("quickstart", [change]).method_options  # noqa: B018


TWO = """
import os, sys
from pathlib import Path
from srft import method
from srft.objective import nll
from tests.run import test_not_finite

@method("broken-on-one", needs={"demonstrations"})
def broken(t):
    here = os.environ["RANK"] == "1" and t.responses.step > 1
    return {"broken": nll(t.demo) * (float("nan") if here else 1.0)}

from srft import load_recipe, train
words = [*test_not_finite.SMALL, "method.name=broken-on-one", "training.steps=9", "training.checkpoint_every=1"]
train(load_recipe("quickstart", words), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_all_processes_end_together(tmp_path: Path) -> None:
    """One of them alone has the NaN."""
    (tmp_path / "two.py").write_text(TWO)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", tmp_path / "two.py"]
    launched = python(*launch, tmp_path / "run", cwd=ROOT, timeout=120)
    assert launched.returncode != 0
    said, _, _ = launched.stderr.partition("ChildFailedError")  # by the processes, before the launcher's table
    assert said.count(f"the last {MOST_SKIPPED} updates were skipped") == 2, launched.stderr[-3000:]
    assert [row["skipped_updates"] for row in RunDir(tmp_path / "run").metrics] == list(range(MOST_SKIPPED + 1))
    assert RunDir(tmp_path / "run").checkpoint.name == "step-000001"
