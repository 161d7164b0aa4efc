"""Prompts with and without demonstrations in one set: every method that can use it takes the demonstrations that there
are, and says how many prompts have none. That a missing one is a zero term: tests/objective, "for some"."""

from __future__ import annotations

import io
import json
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from srft import SrftError, load_recipe, methods, train
from srft.data.files import read_jsonl, write_rows
from srft.recipe.schema import Recipe
from srft.run.preview import show_plan

CHANGES = [
    "training.steps=1", "training.prompts_per_step=6", "rollout.n=2", "rollout.max_response_length=160",
    "training.device=cpu", "evaluation.sets={}", "optim.updates_per_batch=1", "verify.workers=1",
    "logging.samples_every=1",
]  # fmt: skip


def reads_both(name: str) -> bool:
    recipe = load_recipe("quickstart", [f"method.name={name}"])
    return recipe.reads_demonstrations and "rollouts" in recipe.needs


BOTH = [name for name in methods() if reads_both(name)]
ALONE = ["sft", "sft-kl", "dft", "iw-sft", "gem", "psft"]


def mixed() -> list[dict[str, Any]]:
    """Six prompts, of which four have a demonstration; an empty one is none."""
    rows = [{"prompt": f"Start with {i}, add 1. What is the result?", "answer": str(i + 1)} for i in range(6)]
    return [
        row | ({"completion": f"\\boxed{{{i + 1}}}"} if i % 3 else {"completion": "  "}) for i, row in enumerate(rows)
    ]


def recipe(name: str, *changes: str) -> Recipe:
    hooks = ["hooks.buffer.size=4"] if name == "relift" else []
    return load_recipe("quickstart", [f"method.name={name}", *CHANGES, *hooks, *changes])


def ran(name: str, out: Path, *changes: str) -> tuple[dict[str, float], list[dict[str, Any]], str]:
    """The metrics and responses of the step, and what the run said."""
    screen = Console(file=io.StringIO(), width=200)
    run = train(recipe(name, *changes), out, data=mixed(), console=screen)
    (metrics,) = run.metrics
    responses = [row for _, row in read_jsonl(out / "rollouts/step-000001.jsonl")]
    return metrics, responses, screen.file.getvalue()  # type: ignore[attr-defined]


def test_these_are_the_methods() -> None:
    assert {"srft", "sft+rl", "luffy", "relift", "superrl", "hpt", "chord", "uft", "sasr"} == {*BOTH}


@pytest.mark.parametrize("name", BOTH)
def test_rollouts_of_all_and_the_demonstrations_there_are(tmp_path: Path, name: str) -> None:
    metrics, responses, said = ran(name, tmp_path / "run")
    assert all(isfinite(value) for value in metrics.values())
    assert "2 prompts have no demonstration: their rollouts alone are learnt from" in said
    assert "6 problems" in said
    shown = [row["prompt"] for row in responses if row["is_demo"]]
    rolled = {row["prompt"] for row in responses if not row["is_demo"]}
    taught = [row["prompt"] for row in mixed() if row["completion"].strip()]
    assert rolled == (set() if name == "sasr" else {row["prompt"] for row in mixed()})  # sasr begins with SFT
    if name == "uft":  # a hint may be empty
        assert {*shown} <= {*taught}
    elif name == "relift":  # whatever failed, nothing waits that could not be learnt
        assert metrics.get("buffer/size", 0) <= len(taught)
    else:
        assert sorted(shown) == sorted(taught)


@pytest.mark.parametrize("name", ALONE)
def test_a_supervised_method_leaves_the_others_out(tmp_path: Path, name: str) -> None:
    metrics, responses, said = ran(name, tmp_path / "run", "training.prompts_per_step=4")
    assert isfinite(metrics["loss"])
    assert "4 problems" in said
    assert "2 prompts left out, which have no demonstration" in said
    assert sorted({row["prompt"] for row in responses}) == [r["prompt"] for r in mixed() if r["completion"].strip()]


def test_the_plan_says_so_too(tmp_path: Path) -> None:
    write_rows(tmp_path / "data.jsonl", mixed())
    screen = Console(file=io.StringIO(), width=200)
    show_plan(recipe("srft", f"data.path={tmp_path}/data.jsonl"), None, screen)
    text = " ".join(screen.file.getvalue().split())  # type: ignore[attr-defined]
    assert "6 problems, 4 demonstrations" in text
    assert "6 to train on, 2 of them without a demonstration" in text


def test_relift_waits_only_for_what_can_be_learnt(tmp_path: Path) -> None:
    """Rollouts of one token all fail; the prompts without a demonstration do not wait."""
    metrics, _, _ = ran("relift", tmp_path / "run", "rollout.max_response_length=40", "hooks.buffer.size=5", "rollout.n=1",
                        "rollout.temperature=1.0", "verify.function=" + str(_never(tmp_path)))  # fmt: skip
    assert metrics["buffer/size"] == 4


def _never(folder: Path) -> str:
    (folder / "never.py").write_text("def score(solution_str, **_):\n    return 0.0\n")
    return f"{folder}/never.py:score"


def test_rows_in_memory_stay_with_the_run(tmp_path: Path) -> None:
    one = recipe("sft", "training.prompts_per_step=2", "data.columns.prompt=question")
    rows = [{"question": row["prompt"], "completion": row["completion"]} for row in mixed()]
    run = train(one, tmp_path / "run", data=rows)
    kept = load_recipe(tmp_path / "run/recipe.yaml")
    assert kept.data.path == str((tmp_path / "run/data.jsonl").absolute())
    assert [json.loads(line) for line in (tmp_path / "run/data.jsonl").read_text().splitlines()] == rows
    again = train(load_recipe(tmp_path / "run/recipe.yaml", ["training.steps=2"]), tmp_path / "run", resume=True)
    assert [row["step"] for row in again.metrics] == [1, 2]
    assert again.metrics[0] == run.metrics[0]
    with pytest.raises(SrftError, match="a run that goes on has its data"):
        train(one, tmp_path / "run", data=rows, resume=True)
    with pytest.raises(SrftError, match="already holds a run"):
        train(one, tmp_path / "run", data=rows[:1])
    assert len((tmp_path / "run/data.jsonl").read_text().splitlines()) == 6


def test_rows_in_memory_are_every_stages_that_has_no_data_of_its_own(tmp_path: Path) -> None:
    write_rows(tmp_path / "own.jsonl", [{"prompt": "1 + 1?", "completion": "\\boxed{2}"}] * 2)
    tree = {
        "extends": "quickstart",
        "stages": [{"method": {"name": "sft"}}, {"method": {"name": "sft"}, "data": {"path": f"{tmp_path}/own.jsonl"}}],
    }
    run = train(load_recipe(tree, [*CHANGES, "training.prompts_per_step=2"]), tmp_path / "run", data=mixed())
    kept = load_recipe(run.directory.path / "recipe.yaml")
    assert [Path(str(part.data.path)).name for part in kept.parts] == ["data.jsonl", "own.jsonl"]
