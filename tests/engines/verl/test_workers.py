"""Same batch, same numbers: verl's FSDP2 workers against the local updater, and a run of the command from end to end.

Needs verl's own environment: scripts/test-verl makes it and runs these tests.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from srft.engines.verl.config import compose_config, settings
from srft.errors import SrftError
from srft.policy.forward import Policy
from srft.policy.load import load_model, stop_token_ids
from srft.recipe.load import load_recipe
from srft.rollout.collector import Collector
from srft.rollout.response import Group, Response
from srft.rollout.sampler import Sampler
from srft.rollout.samplers.transformers import TransformersSampler
from srft.run.plan import make_plan
from srft.run.stage import make_correction, make_shaping
from srft.training.batches import Batcher
from srft.training.run_dir import RunDir
from srft.training.update import TrainedNetwork, Updater
from srft.verify.verifier import Verifier
from tests.engines.verl.cases import CASES, LR, TOKENS, Case
from tests.engines.verl.on_cpus import environment, overrides
from tests.helpers import ROOT, SMALL, weights

OmegaConf = pytest.importorskip("omegaconf", reason="omegaconf is not installed: scripts/test-verl").OmegaConf
missing = [name for name in ("verl", "transfer_queue", "hydra", "vllm") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.verl_engine,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: scripts/test-verl"),
]


@pytest.fixture(scope="module")
def responses() -> list[Response]:
    """Of a step: four prompts' rollouts, at a temperature of their own, and demonstrations."""
    recipe = CASES[0].recipe.model_copy()
    with Verifier(1) as verifier:
        plan = make_plan(recipe, verifier)
        policy = Policy(load_model(recipe.model)).eval()
        sampler = TransformersSampler(policy.model, plan.pad_token_id, stop_token_ids(plan.tokenizer, policy.causal_lm))
        collector = Collector(sampler, verifier.grade, plan.tokenizer, 0)
        groups = [Group(i, prompt) for i, prompt in enumerate(plan.prompts[:4])]
        params = recipe.sampling.model_copy(update={"n": 3, "temperature": 0.8, "max_response_length": 160})
        return collector.collect(groups, frozenset({"rollouts", "demonstrations"}), params, 1, 1)


@pytest.fixture(scope="module")
def local(responses: list[Response]) -> dict[str, tuple[dict[str, float], dict[str, torch.Tensor]]]:
    """Metrics and weights of each case by the local updater."""
    return {case.name: update(case, responses) for case in CASES}


def update(case: Case, responses: list[Response]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    recipe, accelerator = case.recipe, Accelerator(cpu=True)
    policy, reference = (Policy(load_model(recipe.model)) for _ in range(2))
    optim = recipe.optim
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LR, betas=optim.betas, weight_decay=optim.weight_decay)
    updater = Updater(
        TrainedNetwork(policy, accelerator.prepare(optimizer)), accelerator, recipe.loss, recipe.method_options, 1.0,
        reference=reference.eval().requires_grad_(False),
        shaping=make_shaping(recipe.advantage), correct=make_correction(recipe.rollout, Sampler),
    )  # fmt: skip
    kept = [r for r in responses if ("demonstrations" if r.is_demo else "rollouts") in recipe.needs]
    batcher = Batcher(accelerator, max_response_length=160, tokens_per_micro_batch=TOKENS, pad_token_id=0)
    metrics = updater.update_all(updater.prepare(batcher.split(kept, 3, 4, case.updates), recipe.needs))
    return metrics, policy.model.state_dict()


@pytest.fixture(scope="module", params=[1, 2], ids=lambda n: f"{n} ranks")
def by_verl(request: Any, responses: list[Response], tmp_path_factory: Any) -> Path:
    """A folder with what verl's workers gave, of so many ranks."""
    folder: Path = tmp_path_factory.mktemp("verl")
    (folder / "responses.pickle").write_bytes(pickle.dumps(responses))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(request.param)]
    script = str(Path(__file__).with_name("worker_group.py"))
    ran = subprocess.run(
        [sys.executable, *launch, script, str(folder)],
        capture_output=True, text=True, check=False, env=environment(), cwd=ROOT,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-5000:]
    return folder


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_batch_same_numbers(case: Case, by_verl: Path, local: dict[str, Any]) -> None:
    """Loss terms, gradient norm, every other metric, and the weights after the step, to 1e-5."""
    theirs = json.loads((by_verl / f"{case.name}.json").read_text())
    mine, state = local[case.name]
    assert theirs.keys() == mine.keys()
    for name, value in mine.items():
        assert theirs[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    saved = weights(by_verl / case.name / "huggingface")
    before = load_model(case.recipe.model).state_dict()
    assert max((state[k] - before[k]).abs().max() for k in state) > 0.9 * LR
    for name in state:
        torch.testing.assert_close(saved[name], state[name], rtol=0, atol=1e-5)


def test_every_key_that_is_set_is_one_of_verls() -> None:
    """`OmegaConf.update` would add a key that verl does not read; these few are read though its files lack them."""
    plain = compose_config({})
    found = settings(load_recipe("quickstart", ["rollout.max_batch=9"]), 512, Path("config"))
    places = {key: key.rpartition(".") for key in found}
    unknown = {key for key, (above, _, name) in places.items() if name not in list(OmegaConf.select(plain, above))}
    assert {key.partition(".")[2] for key in unknown} == {
        "actor.fsdp_config.mixed_precision",
        "ref.fsdp_config.mixed_precision",
        "model.override_config.attn_implementation",
        "rollout.engine_kwargs.vllm.hf_config_path",
    }


def test_keys_of_verl_in_the_documents_are_verls() -> None:
    text = (ROOT / "docs/scaling.md").read_text()
    keys = set(re.findall(r"verl\.([a-z][\w.]+=\w+)", text)) - {"key=value"}
    megatron = {key for key in keys if "megatron" in key}
    assert len(keys) > 8
    assert compose_config({}, sorted(keys - megatron)).trainer.nnodes == 8
    assert compose_config({}, sorted(megatron)).actor_rollout_ref.actor.strategy == "megatron"
    with pytest.raises(SrftError, match="no_such_key"):
        compose_config({}, ["trainer.no_such_key=1"])


STAGES = "stages=[{method: {name: sft}, training: {steps: 1}}, {method: {name: srft}}]"


def run(folder: Path, *words: str) -> RunDir:
    """`srft train … --engine verl` on two ranks."""
    command = ["-m", "srft", "train", *words, "--engine", "verl", *overrides(ranks=2), "--out", str(folder)]
    ran = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=environment(), cwd=ROOT
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-5000:]
    assert "verl on 1 × 2 cpu" in ran.stdout
    return RunDir(folder)


@pytest.mark.timeout(1200)
def test_a_run_from_end_to_end_and_resumed(tmp_path: Path) -> None:
    """Two stages, of which the second is resumed in its middle: metrics, rollouts, evaluations and checkpoints are
    those of any run, and the resumed step is the one that was not stopped."""
    small = [word for word in SMALL if not word.startswith("training.device")]
    small += [
        "model.config.rope_theta=20000",
        "training.precision=fp32",
        "training.checkpoint_every=1",
        STAGES,
    ]
    whole = run(tmp_path / "run", "quickstart", *small)
    assert [(row["step"], row["stage"]) for row in whole.metrics] == [(1, 1), (2, 2), (3, 2)]
    assert {(row["step"], row["benchmark"]) for row in whole.evaluations} == {
        (step, name) for step in (0, 1, 3) for name in ("test", "ood")
    }
    assert all(row["sampling/sampling_logp_difference/max"] < 1e-3 for row in whole.metrics[1:])
    rows = [json.loads(line) for line in (whole.path / "rollouts/step-000002.jsonl").read_text().splitlines()]
    assert [row["is_demo"] for row in rows] == [False, False, False, False, True] * 4
    first, last = (weights(folder) for folder in whole.checkpoints)  # steps 2 and 3: the newest two are kept
    assert all((first[k] - last[k]).abs().max() > 0 for k in first)

    expected = whole.metrics[2]
    shutil.rmtree(whole.checkpoint)
    again = run(whole.path, "--resume")
    assert [row["step"] for row in again.metrics] == [1, 2, 3]
    for name, value in expected.items():
        if not name.startswith(("seconds", "step_time", "tokens_per_second")):
            assert again.metrics[2][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    resumed = weights(again.checkpoint)
    for name in last:
        torch.testing.assert_close(resumed[name], last[name], rtol=1e-3, atol=1e-4)
