"""Warnings: each condition on rows made to have its trouble and on rows next to it, and on the rows of recorded runs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from srft import load_recipe, methods
from srft.training.conditions import KINDS, MEMORY, WINDOW
from srft.training.metrics import SAMPLER_GAP
from srft.training.warnings import HOLDS, QUIET, examined, holding, warnings_page
from tests.helpers import ROOT

RECORDED = Path(__file__).parent / "recorded"
HEALTHY = {
    "loss": 0.5, "grad_norm": 1.0, "skipped_updates": 0, "reward": 0.5, "entropy": 0.3, "verdict/timeout": 0.0,
    "completions/clipped_ratio": 0.0, "frac_reward_zero_std": 0.1, "frac_groups_all_wrong": 0.0,
    "frac_groups_all_correct": 0.1, "gradient_share/a": 0.6, "gradient_share/b": 0.4, "demo/wrong": 0.0,
    "demo/clipped_ratio": 0.0, SAMPLER_GAP: 0.0,
}  # fmt: skip


def rows(*parts: tuple[int, Mapping[str, Any]], first: int = 1) -> list[dict[str, Any]]:
    """So many rows one after another, each part's with these changes to a healthy one."""
    changes = [change for count, change in parts for _ in range(count)]
    return [{"step": i, "stage": 1, **HEALTHY, **change} for i, change in enumerate(changes, first)]


def names(given: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(step, warning.name) for step, warning in examined(given)]


FALLEN = {"reward": 0.2}
TROUBLE = {
    "sampler_mismatch": ((3, {}), (1, {SAMPLER_GAP: 0.06})),
    "skipped_updates": ((3, {}), (1, {"skipped_updates": 1, "loss": float("nan")})),
    "diverged": ((3, {}), (1, {"loss": -1001.0})),
    "grad_norm_spikes": ((17, {}), (3, {"grad_norm": 10.1})),
    "reward_fell": ((10, {}), (5, FALLEN)),
    "one_term_drives": ((10, {}), (5, {**FALLEN, "gradient_share/a": 0.29, "gradient_share/b": 0.71})),
    "reward_stuck": ((3, {}), (5, {"frac_groups_all_correct": 1.0})),
    "no_signal": ((3, {}), (5, {"frac_reward_zero_std": 0.8})),
    "entropy_collapse": ((3, {}), (5, {"entropy": 0.029})),
    "entropy_explosion": ((10, {}), (5, {**FALLEN, "entropy": 0.91})),
    "truncated": ((3, {}), (5, {"completions/clipped_ratio": 0.25})),
    "demonstrations_cut": ((3, {}), (5, {"demo/clipped_ratio": 0.1})),
    "demonstrations_wrong": ((3, {}), (5, {"demo/wrong": 0.5})),
    "grader_timeouts": ((3, {}), (5, {"verdict/timeout": 0.01})),
}
ALMOST = {
    "sampler_mismatch": ((3, {}), (1, {SAMPLER_GAP: 0.05})),
    "skipped_updates": ((9, {}),),
    "diverged": ((3, {"loss": 11.0}), (1, {"loss": 1099.0})),
    "grad_norm_spikes": ((18, {}), (2, {"grad_norm": 99.0})),
    "reward_fell": ((10, {}), (5, {"reward": 0.25})),
    "one_term_drives": ((15, {"gradient_share/a": 0.29, "gradient_share/b": 0.71}),),
    "reward_stuck": ((4, {"frac_groups_all_wrong": 1.0}), (1, {"frac_groups_all_wrong": 0.99})),
    "no_signal": ((8, {"frac_reward_zero_std": 0.79}),),
    "entropy_collapse": ((3, {}), (5, {"entropy": 0.031})),
    "entropy_explosion": ((10, {}), (5, {"entropy": 0.91})),
    "truncated": ((3, {}), (4, {"completions/clipped_ratio": 0.3})),
    "demonstrations_cut": ((3, {}), (5, {"demo/clipped_ratio": 0.09})),
    "demonstrations_wrong": ((3, {}), (5, {"demo/wrong": 0.49})),
    "grader_timeouts": ((3, {}), (5, {"verdict/timeout": 0.009})),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_condition_holds_where_its_trouble_is_and_not_next_to_it(name: str) -> None:
    given = rows(*TROUBLE[name])
    assert (given[-1]["step"], name) in names(given)
    assert name not in dict(map(reversed, names(rows(*ALMOST[name]))))


def test_more_of_the_conditions() -> None:
    assert names(rows((9, {}))) == []
    assert names(rows((3, {}), (1, {"grad_norm": 1001.0}))) == [(4, "diverged")]
    all_wrong = {"frac_groups_all_wrong": 1.0, "reward": 0.0, "frac_reward_zero_std": 1.0}
    assert names(rows((5, all_wrong))) == [(5, "reward_stuck"), (5, "no_signal")]
    assert names(rows((10, {"reward": 0.09}), (5, {"reward": 0.0}))) == []  # there was little to lose
    assert names(rows((1, {}), (5, {"entropy": 3.1}))) == [(6, "entropy_explosion")]  # without a fall
    one_term = [{k: v for k, v in row.items() if k != "gradient_share/a"} for row in rows((10, {}), (5, FALLEN))]
    assert names([row | {"gradient_share/b": 1.0} for row in one_term]) == [(15, "reward_fell")]
    assert holding(rows((1, {}), (1 + WINDOW, {"skipped_updates": 1}))) == []  # long enough ago
    supervised = [{k: v for k, v in row.items() if k != "reward"} for row in rows((5, {"demo/wrong": 1.0}))]
    assert names(supervised) == []  # grades play no part


def test_a_warning_is_said_when_it_begins_and_again_when_it_comes_back() -> None:
    bad, good = {SAMPLER_GAP: 0.1}, dict[str, Any]()
    assert names(rows((3, bad), (QUIET - 1, good), (3, bad))) == [(1, "sampler_mismatch")]
    again = [(1, "sampler_mismatch"), (4 + QUIET, "sampler_mismatch")]
    assert names(rows((3, bad), (QUIET, good), (3, bad))) == again


def test_a_stage_begins_anew() -> None:
    second = [row | {"stage": 2} for row in rows((5, {"entropy": 0.02}), first=6)]
    assert names(rows((5, {})) + second) == []  # it came in with that entropy
    lost = [row | {"stage": 2} for row in rows((9, FALLEN), first=16)]
    assert names(rows((15, {})) + lost) == []


def test_what_was_said_before_is_not_read() -> None:
    given = rows((1, {HOLDS + "sampler_mismatch": 1.0}), (3, {SAMPLER_GAP: 0.1}))
    assert names(given) == [(2, "sampler_mismatch")]


def test_what_a_row_lacks_or_holds_instead_of_a_number_is_no_trouble() -> None:
    for name in HEALTHY:
        for value in (None, "text", float("nan"), float("inf"), [1], True):
            for given in (TROUBLE["one_term_drives"], TROUBLE["entropy_explosion"]):
                list(examined([row | {name: value} for row in rows(*given)]))
    assert names([{"step": i, "stage": 1} for i in range(1, 30)]) == []


def test_a_step_of_a_long_run_looks_back_so_far_and_no_further() -> None:
    fallen = rows((10, {}), (MEMORY + WINDOW, {"reward": 0.45}), (5, {"reward": 0.24}))
    assert names(fallen) == []  # 0.24 is above half of 0.45, below half of 0.5
    assert len(names(rows((10, {}), (MEMORY - 9, {"reward": 0.45}), (5, {"reward": 0.24})))) == 1


def recorded(name: str) -> list[dict[str, Any]]:
    with (RECORDED / f"{name}.csv").open() as file:
        return [{name: json.loads(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quickstart", []),
        ("quickstart-grpo", [(31, "entropy_collapse")]),
        ("printed-eq12", [
            (9, "truncated"), (10, "reward_fell"), (10, "entropy_explosion"), (11, "no_signal"),
            (15, "one_term_drives"), (16, "reward_stuck"),
        ]),
    ],
)  # fmt: skip
def test_recorded_runs(name: str, expected: list[tuple[int, str]]) -> None:
    """Rows of whole runs (docs/reliability.md has their commands): a healthy one is warned of nothing."""
    assert names(recorded(name)) == expected


def test_the_page_says_what_the_code_does() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    table = page.partition("<!-- warnings -->\n")[2].partition("<!-- /warnings -->")[0]
    assert table.strip() == warnings_page().strip()
    assert TROUBLE.keys() == ALMOST.keys() == KINDS.keys()


def test_the_advice_names_keys_that_there_are() -> None:
    named = [word for kind in KINDS.values() for word in re.findall(r"`([a-z]+\.[a-z_.]+): ([^`]+)`", kind.advice)]
    assert len(named) > 9
    for key, value in named:
        method = next((name for name in methods() if key.removeprefix("method.") in methods()[name].options), "srft")
        recipe = load_recipe("quickstart", [f"method={{name: {method}}}", f"{key}={value}"])
        assert recipe.method_options
