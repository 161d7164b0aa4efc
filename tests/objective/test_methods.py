"""What every registered method must be: named by its source, with typed options, honest about its needs, and deaf to
gradients through what is not the policy."""

from __future__ import annotations

import re
from dataclasses import replace
from inspect import Parameter
from typing import get_args

import pytest
import torch

from srft.objective import Tokens, get_method, methods
from srft.objective.registry import Need
from tests.objective.steps import measured, micro_batch, policy, random_step
from tests.objective.test_invariance import IDS, VARIANTS

STEP = random_step(groups=3, rollouts=3, demos=1, seed=51)
ROWS = list(range(len(STEP.tokens)))
NAMES = [name for name in methods() if not name.endswith("-for-test")]
OFF_POLICY = [name for name in NAMES if "old_logp" in get_method(name).needs({})]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_names_its_source(name: str) -> None:
    """The paper that `source` begins with is also in the first paragraph of the docstring."""
    method = get_method(name)
    paper = re.split(r"[,;(]| Eqs?\.| Sec\.| Table | as | by ", method.source)[0].strip()
    assert len(paper) > 2
    assert method.function.__doc__
    assert paper in " ".join(method.function.__doc__.split("\n\n")[0].split())
    assert len(method.summary) > 20


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_type_and_a_default(name: str) -> None:
    method = get_method(name)
    for option, (kind, default) in method.options.items():
        assert kind is not None, option
        assert default is not Parameter.empty, option
        allowed = get_args(kind) or (kind,)
        if any(isinstance(a, str) for a in allowed):
            assert default in allowed, option
        else:
            assert isinstance(default, tuple(a for a in allowed if isinstance(a, type))), option
    for preset in method.presets:
        assert set(method.preset(preset)) <= set(method.options)
    assert method.needs({}) <= set(get_args(Need))


def tokens(name: str, options: dict, **changes):
    method, model = get_method(name), policy()
    t = micro_batch(model, measured(method, options, STEP), ROWS, method, options)
    return method, model, replace(t, **changes)


def learnt(method, options: dict, model, t) -> tuple[list[float], torch.Tensor]:
    terms = method(t, **options)
    torch.stack(list(terms.values())).sum().backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return [float(x.detach()) for x in terms.values()], torch.cat([g.flatten() for g in grads])


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_nothing_but_the_policy_gets_a_gradient(name: str, options: dict) -> None:
    """π_old, π_ref, the value and the reward before the update, and what was measured: all stop-gradients."""
    method, _, t = tokens(name, options)
    others = ("old_logp", "ref_logp", "old_value", "old_reward_logp")
    leaves = {x: getattr(t, x).detach().clone().requires_grad_() for x in others}
    means = {x: value.detach().clone().requires_grad_() for x, value in t.responses.mean.items()}
    t = replace(t, **leaves, responses=replace(t.responses, mean=means))
    torch.stack(list(method(t, **options).values())).sum().backward()
    assert {x: leaf.grad for x, leaf in {**leaves, **means}.items() if leaf.grad is not None} == {}


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_what_is_not_declared_is_not_used(name: str, options: dict) -> None:
    """Without what a method does not say it needs, it does the same."""
    method, model, t = tokens(name, options)
    expected = learnt(method, options, model, t)
    needs, changes = method.needs(options), {}
    for need, fields in (
        ("old_logp", ["old_logp"]), ("reference", ["ref_logp"]), ("critic", ["value", "old_value"]),
        ("reward_model", ["reward_logp", "old_reward_logp"]),
    ):  # fmt: skip
        changes |= {} if need in needs else dict.fromkeys(fields)
    if "means" not in needs:
        changes["responses"] = replace(t.responses, mean={})
    method, model, t = tokens(name, options, **changes)
    actual = learnt(method, options, model, t)
    assert actual[0] == expected[0]
    assert torch.equal(actual[1], expected[1])
    if "reference_distribution" not in needs:  # nor by its vocabulary quantities
        logp = torch.zeros(1, 4).log_softmax(-1)
        for quantity in method.vocabulary.values():
            quantity(logp, None, method.defaults(options))


@pytest.mark.parametrize("name", OFF_POLICY)
def test_what_is_declared_is_used(name: str) -> None:
    """Another π_old, another gradient."""
    method, model, t = tokens(name, {})
    _, one = learnt(method, {}, model, t)
    method, model, t = tokens(name, {}, old_logp=None)
    _, two = learnt(method, {}, model, t)
    assert not torch.allclose(one, two)


# Three prompts with 3, 1 and 0 of 4 rollouts right: advantages on either side of every gate.
CONTRAST = random_step(groups=3, rollouts=4, demos=1, seed=52, rewards=[1, 1, 1, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1])


def doubled(t: Tokens) -> torch.Tensor:
    """A shaping that, as each of ours, leaves demonstrations as they are."""
    assert t.advantage is not None
    return torch.where(t.responses.is_demo[t.row], t.advantage, 2 * t.advantage)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_shaping_has_an_effect_where_a_method_has_an_advantage(name: str, options: dict) -> None:
    method, grads = get_method(name), []
    for shaping in ((), (doubled,)):
        model = policy()
        t = micro_batch(model, measured(method, options, CONTRAST), range(15), method, options)
        grads.append(learnt(method, options, model, replace(t, shaping=shaping))[1])
    assert torch.equal(*grads) != method.has_advantage(options)


def test_methods_without_an_advantage() -> None:
    """Those on demonstrations or preferences alone, and SRFT with the binary signal."""
    without = {name for name in NAMES if not get_method(name).has_advantage({})}
    assert {"sft", "psft", "dpo", "srft"} <= without
    assert not {"grpo", "luffy", "sft+rl", "sasr", "ppo"} & without
    assert get_method("srft").has_advantage({"rollout_signal": "advantage"})


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_showing_changes_nothing(name: str, options: dict) -> None:
    """The same loss with and without a record; what is shown are finite numbers, and nothing is kept for none."""
    method, model, t = tokens(name, options, record=None)
    expected = learnt(method, options, model, t)
    assert t.record is None
    method, model, t = tokens(name, options, record={})
    actual = learnt(method, options, model, t)
    assert actual[0] == expected[0]
    assert torch.equal(actual[1], expected[1])
    assert t.record is not None
    for total, count in t.record.values():
        assert not total.requires_grad
        assert torch.isfinite(total)
        assert count >= 0


def test_what_is_shown_adds_up_over_micro_batches() -> None:
    record: dict = {}
    for rows in (ROWS[:5], ROWS[5:]):
        replace(micro_batch(policy(), STEP, rows), record=record).observe("x", torch.full((len(rows),), 2.0))
    assert {name: (float(total), count) for name, (total, count) in record.items()} == {"x": (24.0, 12)}
