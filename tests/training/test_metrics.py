"""Metrics: values worked out by hand, the sampler's difference in a real run, and that every one is described."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from srft import load_recipe, train
from srft.data import Problem, Prompt
from srft.objective import Responses, Tokens
from srft.rollout.response import Response
from srft.training.hooks import hook_types
from srft.training.metrics import METRICS, TokenSums, metrics_page, response_metrics
from srft.verify.grade import Verdict

SMALL = [
    "training.steps=2", "training.prompts_per_step=4", "training.tokens_per_micro_batch=1500", "training.device=cpu",
    "rollout.n=4", "rollout.max_response_length=160", "evaluation.sets={}", "data.limit=64", "logging.rollouts=false",
]  # fmt: skip
PROMPT = Prompt(Problem("2 + 3?", "5"), (5, 6))
MEAN_GAP, MAX_GAP = "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max"


def response(group_id: int, reward: float, length: int = 2, **values: Any) -> Response:
    verdict = Verdict.RIGHT if reward >= 1 else Verdict.WRONG
    defaults = {"is_demo": False, "truncated": False, "text": "", "verdict": verdict}
    return Response(group_id, PROMPT, [7] * length, reward=reward, **defaults | values)


def metrics_of(*responses: Response) -> dict[str, float]:
    return response_metrics(responses, Accelerator(cpu=True))


def test_response_metrics_by_hand() -> None:
    metrics = metrics_of(
        response(0, 1.0, 3),
        response(0, 0.0, 9, truncated=True),
        response(0, 1.0, 2, is_demo=True),
        response(1, 1.0, 4),
        response(1, 1.0, 4),
        response(2, 0.0, 1, verdict=Verdict.UNPARSABLE),
        response(2, 0.0, 1, verdict=Verdict.TIMEOUT),
        response(2, 0.5, 6, is_demo=True),
        response(3, 0.5, 1),
        response(3, 0.0, 1),
    )
    rewards = [1, 0, 1, 1, 0, 0, 0.5, 0]
    mean = 3.5 / 8
    expected = {
        "tokens": 3 + 9 + 2 + 4 + 4 + 1 + 1 + 6 + 1 + 1,
        "reward": mean,
        "reward_std": (sum((x - mean) ** 2 for x in rewards) / 7) ** 0.5,
        "frac_reward_zero_std": 2 / 4,  # groups 1 and 2; what the demonstration of group 2 earned is no matter
        "frac_groups_all_correct": 1 / 4,
        "frac_groups_all_wrong": 2 / 4,  # part of a reward is not a right answer
        "completions/mean_length": 24 / 8,
        "completions/max_length": 9,
        "completions/clipped_ratio": 1 / 8,
        "verdict/unparsable": 1 / 8,
        "verdict/timeout": 1 / 8,
        "demo/reward": 0.75,
        "demo/mean_length": 4.0,
        "demo/wrong": 0.5,
        "demo/clipped_ratio": 0.0,
    }
    assert {name: metrics.get(name) for name in expected} == pytest.approx(expected)


def test_each_of_several_rewards_has_its_mean() -> None:
    metrics = metrics_of(
        response(0, 1.2, 3, rewards={"grader": 1.0, "brevity": 0.4}),
        response(0, 0.0, 9, rewards={"grader": 0.0, "brevity": None}),
        response(0, 0.0, 2, rewards={"grader": None, "brevity": None}),
        response(0, 1.0, 2, is_demo=True, rewards={"grader": 1.0, "brevity": 0.8}),
    )
    expected = {"reward/grader": 0.5, "reward/brevity": 0.4, "unscored": 1 / 3, "reward": 0.6, "tokens": 16}
    assert {name: metrics.get(name) for name in expected} == pytest.approx(expected)
    assert not {"reward/grader", "unscored"} & metrics_of(response(0, 1.0)).keys()


def test_what_is_right_is_the_verdict() -> None:
    metrics = metrics_of(response(0, 0.6, verdict=Verdict.RIGHT), response(0, 0.7, verdict=Verdict.RIGHT))
    assert (metrics["frac_groups_all_correct"], metrics["frac_groups_all_wrong"]) == (1, 0)


def test_a_group_of_one_has_no_spread() -> None:
    metrics = metrics_of(response(0, 1.0))
    assert (metrics["reward_std"], metrics["frac_reward_zero_std"]) == (0, 1)
    assert (metrics["frac_groups_all_correct"], metrics["frac_groups_all_wrong"]) == (1, 0)


def test_what_a_step_does_not_have_is_absent() -> None:
    demonstrations = metrics_of(response(0, 1.0, is_demo=True))
    assert set(demonstrations) == {"tokens", "demo/reward", "demo/wrong", "demo/clipped_ratio", "demo/mean_length"}
    assert not any(name.startswith("demo/") for name in metrics_of(response(0, 1.0)))
    assert metrics_of() == {"tokens": 0}


def test_token_metrics_by_hand() -> None:
    """Two micro-batches: a right rollout of two tokens; a wrong one of one token and a demonstration of two."""
    table = Responses(torch.tensor([1.0, 0.0, 1.0]), torch.zeros(3).long(), torch.tensor([False, False, True]),
                      torch.tensor([2, 1, 2]), limit=8)  # fmt: skip
    logp = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0], requires_grad=True)
    old = torch.tensor([-1.0, -2.5, -3.0, -4.0, -4.0])
    entropy = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], requires_grad=True)
    row, sampler = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([-1.25, -2.5, -2.5, torch.nan, torch.nan])
    sums = TokenSums()
    for part in (slice(0, 2), slice(2, 5)):
        t = Tokens(logp[part], entropy[part], row[part], table, old_logp=old[part], record={})
        t.observe("weight", torch.full((2,), 2.0))
        sums.add(t, {"policy": 3 * t.logp.sum(), "entropy": -4 * t.entropy.sum()}, sampler[part])
    metrics = sums.metrics(Accelerator(cpu=True))
    ratios = [0.0, 0.5, 0.0]  # of the rollouts
    expected = {
        "loss": -45.0 - 10.0,
        "loss/policy": -45.0,
        "loss/entropy": -10.0,
        "gradient_share/policy": 3 / 7,
        "gradient_share/entropy": 4 / 7,
        "entropy": 0.9 / 3,
        "entropy/demo": 0.8,
        "entropy/correct": 0.2,
        "entropy/wrong": 0.5,
        "approx_kl": sum(torch.tensor(x).exp().item() - 1 - x for x in ratios) / 3,
        MEAN_GAP: (0.25 + 0.0 + 0.5) / 3,  # π_old drew the tokens
        MAX_GAP: 0.5,
        "method/weight": 2.0,
    }
    assert {name: metrics.get(name) for name in expected} == pytest.approx(expected)


METHODS = {
    "srft": ["method.name=srft"],
    "sft": ["method.name=sft"],
    "grpo": ["method.name=grpo", "optim.updates_per_batch=2"],
    "ppo": ["method.name=ppo"],
    "relift": ["method.name=relift", "hooks.buffer.size=1", "rollout.n=2"],
    "dapo": ["method.name=dapo", "hooks.refill.rounds=2", "rollout.n=2"],
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """metrics.jsonl of a short run of each method."""
    folder = tmp_path_factory.mktemp("metrics")
    return {
        name: train(load_recipe("quickstart", [*SMALL, *words]), folder / name).metrics
        for name, words in METHODS.items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_every_metric_of_a_run_is_described(rows: dict[str, list[dict[str, Any]]], name: str) -> None:
    hook_types()  # a hook describes its own
    known = [
        re.compile(re.sub(r"<\w+>", r"[^/]+", re.escape(entry).replace(r"\<", "<").replace(r"\>", ">")))
        for entry in METRICS
    ]
    for row in rows[name]:
        assert [key for key in row if not any(entry.fullmatch(key) for entry in known)] == []


def test_the_metrics_of_each_method(rows: dict[str, list[dict[str, Any]]]) -> None:
    for name, run in rows.items():
        for row in run:
            assert row["loss"] == pytest.approx(sum(v for k, v in row.items() if k.startswith("loss/")))
            assert row["step_time"] == pytest.approx(row["seconds/collect"] + row["seconds/update"], rel=1e-3)
            assert ("demo/reward" in row) == (name in ("srft", "sft"))
            assert ("entropy" in row) == ("reward" in row) == (MEAN_GAP in row) == (name != "sft")
            assert ("approx_kl" in row) == (name == "grpo")
            assert ("groups" in row) == ("groups_drawn" in row) == (name == "dapo")
            assert ("buffer/size" in row) == (name == "relift")
            assert ("grad_norm/critic" in row) == (name == "ppo")
    assert any("buffer/loss" in row for row in rows["relift"])


def test_the_sampler_is_the_policy(rows: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("srft", "grpo", "ppo", "dapo"):
        for row in rows[name]:
            assert 0 <= row[MEAN_GAP] <= row[MAX_GAP] < 1e-4


def test_a_second_update_moves_away_from_the_policy_that_sampled(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert all(row["approx_kl"] >= 0 for row in rows["grpo"])
    assert any(row["approx_kl"] > 0 for row in rows["grpo"])


def test_every_described_metric_is_measured(rows: dict[str, list[dict[str, Any]]]) -> None:
    measured = {key for run in rows.values() for row in run for key in row}
    elsewhere = {"mean_token_accuracy", "num_tokens"}  # of DPO: tests/run/test_quickstarts.py
    elsewhere |= {"sampling/importance_sampling_ratio/mean"}  # of another sampler: tests/rollout/test_vllm_sampler.py
    elsewhere |= {"unscored"}  # of rewards that may not apply: tests/run/test_rewards.py
    modules = [vars(sys.modules[cls.__module__]).values() for cls in hook_types().values()]
    hooks = {value for values in modules for value in values if isinstance(value, str) and value in METRICS}
    assert {name for name in METRICS if "<" not in name} - elsewhere - hooks <= measured
    assert {"buffer/size", "groups", "groups_drawn"} <= hooks & measured


def test_the_page_is_the_codes_table() -> None:
    hook_types()
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
    table = page.partition("<!-- metrics -->\n")[2].partition("<!-- /metrics -->\n")[0]
    assert table.strip() == metrics_page().strip()
