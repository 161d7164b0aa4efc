"""One count per term over the whole step: every registered method, with each preset and aggregation, has the same
gradient however the step is cut; and a term with nothing to sum is a zero that still has a graph."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srft.objective import get_method, methods
from tests.objective.steps import gradient, measured, micro_batch, policy, random_step


def variants() -> list[tuple[str, dict]]:
    """Every method with its defaults, its presets, and each value of the options that change what is summed or how."""
    pairs: list[tuple[str, dict]] = []
    for name, method in methods().items():
        if "preferences" in method.needs({}):  # another library's loss
            continue
        pairs.append((name, {}))
        pairs += [(name, method.preset(preset)) for preset in method.presets]
        for option, (kind, _) in method.options.items():
            kinds = [a for a in (kind, *get_args(kind)) if get_origin(a) is Literal]
            pairs += [(name, {option: value}) for a in kinds for value in get_args(a)]
            pairs += [(name, {option: value}) for value in OFF_BY_DEFAULT.get(option, ())]
    return pairs


OFF_BY_DEFAULT = {
    "kl_weight": [0.1], "max_prob": [0.1], "whiten": [False], "phi": [True], "gate": [2], "entropy_bonus": [0.01],
    "overlong_buffer": [0.9], "dual_clip": [1.1], "gamma": [0.9], "lam": [0.5],
}  # fmt: skip


VARIANTS = variants()
IDS = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options in VARIANTS]
STEP = random_step(groups=4, rollouts=4, demos=1)
ROWS = list(range(len(STEP.tokens)))


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_any_cut_has_the_same_gradient(name: str, options: dict) -> None:
    method = get_method(name)
    loss, whole = gradient(method, options, STEP, [ROWS])
    assert whole.abs().max() > 0

    @settings(max_examples=8, deadline=None, derandomize=True)
    @given(st.permutations(ROWS), st.lists(st.integers(0, len(ROWS)), max_size=5))
    def check(order: list[int], places: list[int]) -> None:
        edges = [0, *sorted(places), len(ROWS)]
        cuts = [order[a:b] for a, b in pairwise(edges)]
        cut_loss, cut = gradient(method, options, STEP, cuts)
        assert cut_loss == pytest.approx(loss, rel=1e-9, abs=1e-12)
        torch.testing.assert_close(cut, whole, rtol=1e-6, atol=1e-12)

    check()


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(random_step(demos=0, groups=2), id="no demonstration"),
        pytest.param(random_step(groups=2, rollouts=3, rewards=[0, 0, 0, 1] * 2), id="no right rollout"),
        pytest.param(random_step(groups=2, rollouts=3, rewards=[1, 1, 1, 1] * 2), id="all right"),
        pytest.param(random_step(groups=2, rollouts=3, rewards=[0, 0, 0, 0] * 2), id="all wrong"),
        pytest.param(random_step(groups=3, rollouts=1, demos=0), id="groups of one"),
        pytest.param(random_step(groups=3, rollouts=0, demos=1), id="demonstrations alone"),
    ],
)
def test_what_is_missing_is_a_zero_with_a_graph(name: str, options: dict, step) -> None:
    rows = list(range(len(step.tokens)))
    model = policy()
    for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        chosen = get_method(name)
        t = micro_batch(model, measured(chosen, options, step), part, chosen, options)
        for term in chosen(t, **options).values():
            assert torch.isfinite(term)
            assert term.requires_grad
            term.backward(retain_graph=True)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_empty_views_are_exactly_zero() -> None:
    step = random_step(groups=2, rollouts=3, rewards=[0, 0, 0, 1] * 2)
    t = micro_batch(policy(), step, [0, 1, 2])
    terms = get_method("srft")(t)
    assert float(terms["rl_correct"]) == 0
    assert float(terms["sft_demo"]) == 0
    assert float(terms["rl_demo"]) == 0


def test_two_real_ranks_have_the_same_gradient(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "src")])  # the package of this tree, wherever one is installed
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)],
        capture_output=True, text=True, check=False, cwd=root,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    worst = float(result.stdout.strip().splitlines()[-1])
    assert worst < 1e-9


RANKS = """
import torch, torch.distributed as dist
from srft.objective import methods
from tests.objective.steps import gradient, random_step
dist.init_process_group("gloo")
step = random_step()
rows, worst = list(range(len(step.tokens))), 0.0
for method in methods().values():
    if "preferences" in method.needs({}):
        continue
    _, whole = gradient(method, {}, step, [rows])
    _, mine = gradient(method, {}, step, [rows[dist.get_rank()::2]])
    dist.all_reduce(mine)
    worst = max(worst, float((mine - whole).norm() / whole.norm()))
if dist.get_rank() == 0:
    print(worst)
dist.destroy_process_group()
"""


def test_variants_cover_every_method() -> None:
    ours = {name for name, method in methods().items() if "preferences" not in method.needs({})}
    assert {name for name, _ in VARIANTS} == {name for name in ours if not name.endswith("-for-test")}
