"""What the other files leave open: a micro-batch of nothing, ranks of unequal shares, the paper's own numbers, and
leaves that must never get a gradient."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from math import exp
from pathlib import Path

import pytest
import torch
from torch import Tensor

from srft.errors import SrftError
from srft.objective import Tokens, get_method, grpo, srft
from tests.objective.steps import evaluate, gradient, measured, micro_batch, policy, random_step
from tests.objective.test_invariance import IDS, VARIANTS

STEP = random_step(groups=4, rollouts=4, demos=1, seed=5)
ROWS = list(range(len(STEP.tokens)))
DEMO = [i for i in ROWS if STEP.table.is_demo[i]]
RIGHT = [i for i in ROWS if not STEP.table.is_demo[i] and STEP.table.reward[i] == 1]
WRONG = [i for i in ROWS if not STEP.table.is_demo[i] and STEP.table.reward[i] == 0]


def nothing(model: torch.nn.Module, name: str = "sft", options: dict | None = None) -> Tokens:
    """A micro-batch of the step that has none of its tokens, as a rank that ran out of work holds it."""
    method = get_method(name)
    t = micro_batch(model, measured(method, options or {}, STEP), [0], method, options)
    return t.where(torch.zeros_like(STEP.table.is_demo))


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_a_micro_batch_of_nothing_is_exactly_zero(name: str, options: dict) -> None:
    model = policy()
    terms = get_method(name)(nothing(model, name, options), **options)
    for term in terms.values():
        assert float(term.detach()) == 0
        assert term.requires_grad
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_micro_batches_of_one_kind(name: str, options: dict) -> None:
    """Demonstrations, right and wrong rollouts apart: the cut that a mean of means gets most wrong."""
    _, whole = gradient(get_method(name), options, STEP, [ROWS])
    _, cut = gradient(get_method(name), options, STEP, [DEMO, RIGHT, WRONG])
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-13)


def test_equal_rewards_teach_grpo_nothing() -> None:
    for reward in (0.0, 1.0):
        step = random_step(groups=3, rollouts=4, demos=0, rewards=[reward] * 12)
        loss, grad = gradient(grpo, {}, step, [list(range(12))])
        assert loss == 0
        assert not grad.any()


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def printed(model: torch.nn.Module, scale_sft: float, scale_rl: float, hpt: bool) -> Tensor:
    """SRFT as it is printed, with its numbers in place of options: nothing of the package's but the table."""
    table, total = STEP.table, torch.zeros((), dtype=torch.double)
    count = {id(kind): sum(int(table.length[i]) for i in kind) for kind in (DEMO, RIGHT, WRONG)}
    for i in ROWS:
        logp, entropy = evaluate(model, STEP.contexts[i], STEP.tokens[i])
        kind = DEMO if i in DEMO else RIGHT if i in RIGHT else WRONG
        rl = len(ROWS) * table.limit if hpt else count[id(kind)]
        group = table.reward[table.group == table.group[i]]
        a = float(table.reward[i] - group.mean()) / (1.0 if hpt else float(group.std()) + 1e-6)
        h = float(entropy.detach().mean())
        if kind is DEMO:
            ratio = logp.exp() / (logp.exp() + 0.1) if hpt else logp.exp()
            total = total - scale_sft * exp(-h) * logp.sum() / count[id(kind)] - a * ratio.sum() / rl
        elif kind is RIGHT:
            total = total - scale_rl * exp(h) * logp.sum() / rl
        else:
            total = total + logp.sum() / rl
        if hpt:
            total = total - 0.001 * entropy.sum() / int(table.length.sum())
    return total


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        pytest.param({}, (0.5, 0.1, False), id="default"),
        pytest.param(srft.preset("paper-en"), (0.5, 0.1, False), id="paper-en"),
        pytest.param(srft.preset("paper-zh"), (1.0, 1.0, False), id="paper-zh"),
        pytest.param(srft.preset("hpt"), (0.5, 0.1, True), id="hpt"),
    ],
)
def test_presets_have_the_printed_numbers(options: dict, numbers: tuple[float, float, bool]) -> None:
    loss, grad = gradient(srft, options, STEP, [ROWS])
    model = policy()
    expected = printed(model, *numbers)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-9)
    torch.testing.assert_close(grad, flat(model), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "factors"),
    [({"weight_sft": "one"}, (1.0, None)), ({"weight_rl": "one"}, (None, 1.0))],
    ids=["w_sft = 1", "w_rl = 1"],
)
def test_entropy_weights_are_constants_to_the_gradient(options: dict, factors: tuple) -> None:
    """d(w·nll) = w·d(nll) with w a plain number per response; the ablations of Table 3 have w = 1."""
    model, expected = policy(), torch.zeros((), dtype=torch.double)
    for kind, scale, sign, factor in ((DEMO, 0.5, -1, factors[0]), (RIGHT, 0.1, 1, factors[1])):
        for i in kind:
            logp, entropy = evaluate(model, STEP.contexts[i], STEP.tokens[i])
            w = scale * exp(sign * entropy.mean().item()) if factor is None else factor
            expected = expected - w * logp.sum() / sum(int(STEP.table.length[j]) for j in kind)
    expected.backward()
    ours = policy()
    terms = srft(micro_batch(ours, STEP, ROWS), **options)
    (terms["sft_demo"] + terms["rl_correct"]).backward()
    torch.testing.assert_close(flat(ours), flat(model), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("case", ["one rank has nothing", "unequal shares"])
def test_real_ranks_of_unequal_shares(case: str, tmp_path: Path) -> None:
    """Two gloo processes add up their gradients; every variant of every method."""
    shares = [ROWS, []] if case == "one rank has nothing" else [ROWS[:3], ROWS[3:]]
    (tmp_path / "rank.py").write_text(RANK.format(shares=shares, store=(tmp_path / "store").as_uri()))
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, str(Path(root) / "src")])  # the package of this tree, wherever one is installed
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen([sys.executable, str(tmp_path / "rank.py"), str(r)], cwd=root, env=env, stderr=subprocess.PIPE)
        for r in (0, 1)
    ]
    try:
        errors = [rank.communicate(timeout=60)[1].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], errors


RANK = """
import sys, torch, torch.distributed as dist
from tests.objective.test_edges import STEP, ROWS, nothing
from tests.objective.test_invariance import VARIANTS
from tests.objective.steps import gradient, measured, micro_batch, policy
from srft.objective import get_method
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method={store!r}, rank=rank, world_size=2)
for name, options in VARIANTS:
    _, whole = gradient(get_method(name), options, STEP, [ROWS])
    model, mine = policy(), {shares}[rank]
    method = get_method(name)
    step = measured(method, options, STEP)
    t = micro_batch(model, step, mine, method, options) if mine else nothing(model, name, options)
    torch.stack(list(method(t, **options).values())).sum().backward()
    for p in model.parameters():
        dist.all_reduce(p.grad)
    summed = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(summed, whole, rtol=1e-8, atol=1e-12)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("leaf", ["old_logp", "ref_logp"])
def test_other_policies_get_no_gradient(leaf: str) -> None:
    t = micro_batch(policy(), STEP, ROWS)
    other = getattr(t, leaf).clone().requires_grad_()
    terms = grpo(replace(t, **{leaf: other}), kl_weight=0.1)
    torch.stack(list(terms.values())).sum().backward()
    assert other.grad is None


def test_entropy_of_the_step_gets_no_gradient() -> None:
    entropy = STEP.table.mean["entropy"].clone().requires_grad_()
    t = replace(micro_batch(policy(), STEP, ROWS), responses=replace(STEP.table, mean={"entropy": entropy}))
    torch.stack(list(srft(t, entropy_scope="batch").values())).sum().backward()
    assert entropy.grad is None


def test_entropy_outside_the_view_does_not_matter() -> None:
    entropy = STEP.table.mean["entropy"].clone()
    entropy[WRONG[0]] = float("nan")  # a response of no tokens has no mean
    t = replace(micro_batch(policy(), STEP, ROWS), responses=replace(STEP.table, mean={"entropy": entropy}))
    assert all(torch.isfinite(term) for term in srft(t, entropy_scope="batch").values())


def test_own_file_may_hold_a_dataclass(tmp_path: Path) -> None:
    file = tmp_path / "with_dataclass.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Settings:\n    scale: float = 0.5\n"
    )
    assert get_method("sft", file).name == "sft"


def test_needs_of_a_preset() -> None:
    assert srft.needs(srft.preset("hpt")) == {"demonstrations", "rollouts"}


@pytest.mark.parametrize("option", ["rollout_signal", "weight_sft", "weight_rl", "demo_shaping", "entropy_scope"])
def test_a_misspelt_choice_is_refused(option: str) -> None:
    with pytest.raises(SrftError, match=option):
        srft(micro_batch(policy(), STEP, ROWS), **{option: "misspelt"})
