"""Sampling by servers: requests, weights and errors, against a small server that speaks vLLM's HTTP."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch

from srft import load_recipe, train
from srft.errors import SrftError
from srft.evaluation.run import evaluate
from srft.evaluation.settings import EvaluationRecipe
from srft.policy.forward import Policy
from srft.policy.load import LoraSettings, ModelSettings, load_model
from srft.policy.micro_batch import ModelInput, pad
from srft.rollout.engine import SamplerSettings, make_sampler
from srft.rollout.sampler import Sampler, SampleRequest, SamplingParams
from srft.rollout.samplers import server as server_module
from srft.rollout.samplers.transformers import TransformersSampler
from srft.training.run_dir import RunDir
from tests.helpers import SMALL
from tests.rollout.serving import Served, serve

MODEL = ModelSettings(path="srft:model")
PROMPTS = [[5, 6, 7, 8, 9, 10 + i] for i in range(6)]


@pytest.fixture
def served() -> Served:
    return Served()


def settings(urls: list[str], folder: Path, **options: Any) -> SamplerSettings:
    return SamplerSettings.model_validate(
        {"engine": "server", "server": {"urls": urls, "folder": str(folder), **options}}
    )


def gap(policy: Policy, sampler: Sampler, **params: Any) -> float:
    """The largest difference of the sampler's log-probs and the policy's (nats)."""
    params = {"n": 3, "max_response_length": 24, **params}
    groups = sampler.sample([SampleRequest(p, i) for i, p in enumerate(PROMPTS)], SamplingParams(**params))
    assert [len(group) for group in groups] == [3] * len(PROMPTS)
    inputs = [
        ModelInput(prompt, s.token_ids, row, params.get("temperature", 1.0) or 1.0, s.logprobs)
        for row, (prompt, s) in enumerate((p, s) for p, group in zip(PROMPTS, groups, strict=True) for s in group)
    ]
    batch = pad(inputs, 0)
    with torch.no_grad():
        return float((policy(batch).logp - batch.sampler_logprobs).abs().max())


def test_servers_follow_the_policy(
    served: Served, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FILE_BYTES", 1 << 20)  # several files
    other = Served()
    with serve(served) as one, serve(other) as two:
        policy = Policy(load_model(MODEL))
        chosen = settings([one, f"{two}/v1"], tmp_path / "weights")
        assert chosen.resolve(MODEL) == "server"
        sampler = make_sampler(chosen, policy, MODEL, tokenizer, max_model_len=256)
        assert not sampler.is_policy
        assert gap(policy, sampler) < 1e-4
        assert len(served.bodies) == len(other.bodies) == 3  # the prompts are dealt out
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.05)
        assert gap(policy, sampler) > 0.02
        served.drops = 2  # broken connections are tried again
        policy.sync(sampler)
        assert gap(policy, sampler) < 1e-4
        assert served.drops == 0
        assert gap(policy, sampler, temperature=0.7) < 1e-4
        assert gap(policy, sampler, temperature=0.0) < 1e-4
        assert {body["n"] for body in served.bodies[-3:]} == {1}  # greedy samples are copies
        cut = sampler.sample([SampleRequest(PROMPTS[0], 1)], SamplingParams(n=1, top_p=0.5, max_response_length=4))
        assert all(math.isnan(x) for x in cut[0][0].logprobs)
        body = served.bodies[0]
        assert (body["top_k"], body["repetition_penalty"], body["min_p"], body["ignore_eos"]) == (0, 1.0, 0.0, True)
        assert len({tuple(body["prompt"]) for body in (*served.bodies, *other.bodies)}) == len(PROMPTS)
        params = SamplingParams(n=4, max_response_length=24)
        (group,) = sampler.sample([SampleRequest(PROMPTS[0], 1)], params)
        direct = TransformersSampler(policy.model, 0, set(served.bodies[-1]["stop_token_ids"]))
        (expected,) = direct.sample([SampleRequest(PROMPTS[0], served.bodies[-1]["seed"])], params)
        assert [s.token_ids for s in group] == [s.token_ids for s in expected]  # in the order of the group
        assert len(served.reloads) == len(other.reloads) == 2
        assert served.reloads[0][0] != served.reloads[1][0]  # never the same path again
        assert not any((tmp_path / "weights").rglob("*.safetensors"))  # taken away once they are read
        sampler.close()
        assert not list((tmp_path / "weights").iterdir())


def test_weights_travel_in_the_servers_precision(served: Served, tokenizer: Any, tmp_path: Path) -> None:
    served.config["dtype"] = "torch.bfloat16"
    with serve(served) as url:
        make_sampler(settings([url], tmp_path), Policy(load_model(MODEL)), MODEL, tokenizer, max_model_len=64).close()
    assert set(served.reloads[0][1].values()) == {torch.bfloat16}


def test_adapters_are_handed_over_by_themselves(served: Served, tokenizer: Any, tmp_path: Path) -> None:
    lora = MODEL.model_copy(update={"lora": LoraSettings(rank=4, alpha=8)})
    policy = Policy(load_model(lora))
    with torch.no_grad():  # as resumed: another base than that of the server, and adapters
        for parameter in policy.parameters():
            parameter.mul_(1.02).add_(0.02 * parameter.requires_grad)
    with serve(served) as url:
        chosen = settings([url], tmp_path, lora="adapters")
        assert chosen.resolve(lora) == "server"
        sampler = make_sampler(chosen, policy, lora, tokenizer, max_model_len=256)
        assert gap(policy, sampler) < 1e-3
        for _ in range(2):
            with torch.no_grad():
                for parameter in (p for p in policy.parameters() if p.requires_grad):
                    parameter.add_(0.02)
            assert gap(policy, sampler) > 0.02
            policy.sync(sampler)
            assert gap(policy, sampler) < 1e-3
            assert len(served.adapters) == 1
        assert len(served.reloads) == 1  # the base, once
        sampler.close()
        assert not served.adapters
        assert not list(tmp_path.iterdir())
        merged = make_sampler(chosen, Policy(load_model(MODEL)), lora, tokenizer, max_model_len=64)  # a whole copy
        assert (len(served.reloads), len(served.adapters)) == (2, 0)
        merged.close()
        served.lora = {"max_lora_rank": 2}
        with pytest.raises(SrftError, match="--enable-lora"):
            chosen.resolve(lora)
        served.lora = None
        with pytest.raises(SrftError, match="--enable-lora"):
            chosen.resolve(lora)
        assert chosen.resolve(MODEL) == "server"  # a stage without LoRA
        with pytest.raises(SrftError, match=r"rollout\.server\.lora: merged"):
            chosen.resolve(MODEL.model_copy(update={"lora": LoraSettings(rank=513)}))


def test_adapters_are_served_by_what_they_stand_on(served: Served, tokenizer: Any, tmp_path: Path) -> None:
    """With the config that they were trained with."""
    pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")
    changed = MODEL.model_copy(update={"lora": LoraSettings(rank=2), "config": {"rope_theta": 5.0}})
    Policy(load_model(changed)).save(tmp_path / "adapters", tokenizer)
    adapters = ModelSettings(path=str(tmp_path / "adapters"))
    with serve(served) as url:
        with pytest.raises(SrftError, match=r"--hf-overrides '\{.*5\.0"):
            settings([url], tmp_path).resolve(adapters)
        served.config["hf_overrides"] = {"rope_parameters": load_model(adapters).config.rope_parameters}
        assert settings([url], tmp_path).resolve(adapters) == "server"


def test_what_is_wrong_with_a_server_is_said_first(served: Served, tmp_path: Path) -> None:
    def refused(match: str, model: ModelSettings = MODEL, **options: Any) -> None:
        with pytest.raises(SrftError, match=match):
            settings([url], tmp_path, **options).resolve(model)

    with serve(served) as url:
        assert settings([url], tmp_path).resolve(MODEL) == "server"
        served.status["/server_info"] = 404
        refused("VLLM_SERVER_DEV_MODE=1")
        served.status.clear()
        served.config["logprobs_mode"] = "raw_logprobs"
        refused("--logprobs-mode processed_logprobs")
        served.config["logprobs_mode"] = "processed_logprobs"
        served.vocabulary += 1
        refused("another model")
        served.vocabulary -= 2
        refused("another model")
        served.vocabulary += 1
        refused("--hf-overrides '{.*40000", MODEL.model_copy(update={"config": {"rope_theta": 40000.0}}))
        served.config["hf_overrides"] = {"rope_parameters": {"rope_theta": 5.0}}
        refused("without --hf-overrides")
        served.config["hf_overrides"] = {}
        served.status["/v1/models"] = 500
        refused("status 500")
        served.status.clear()
        del served.config["dtype"]
        refused("dtype")
        (tmp_path / "file").write_text("")
        served.config["dtype"] = "torch.float32"
        with pytest.raises(SrftError, match=r"rollout\.server\.folder"):
            settings([url], tmp_path / "file").resolve(MODEL)
    refused("is not reached")
    with pytest.raises(SrftError, match="no urls"):
        settings([], tmp_path).resolve(MODEL)
    with pytest.raises(SrftError, match="no folder"):
        SamplerSettings.model_validate({"engine": "server", "server": {"urls": ["http://x"]}}).resolve(MODEL)


def test_another_shape_is_refused_before_it_gets_weights(served: Served, tmp_path: Path) -> None:
    config = served.model.config
    config.intermediate_size += 1
    config.save_pretrained(tmp_path / "other")
    served.path = str(tmp_path / "other")
    with serve(served) as url, pytest.raises(SrftError, match=r"another model.*intermediate_size"):
        settings([url], tmp_path / "weights").resolve(MODEL)
    assert not served.reloads


def test_httpx_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SrftError, match=r"srft\[server\]"):
        settings(["http://x"], tmp_path).resolve(MODEL)


def test_errors_while_running_say_what_to_do(served: Served, tokenizer: Any, tmp_path: Path) -> None:
    policy = Policy(load_model(MODEL))
    with serve(served) as url:
        chosen = settings([url], tmp_path / "w", timeout=0.2)
        with pytest.raises(SrftError, match="--max-model-len 2000"):
            make_sampler(chosen, policy, MODEL, tokenizer, max_model_len=2000)
        with pytest.raises(SrftError, match="no urls"):
            make_sampler(SamplerSettings(engine="server"), policy, MODEL, tokenizer, max_model_len=64)
        sampler = make_sampler(chosen, policy, MODEL, tokenizer, max_model_len=64)
        with served.lock, pytest.raises(SrftError, match=r"rollout\.server\.timeout"):
            gap(policy, sampler)
        served.drops = 10**6
        with pytest.raises(SrftError, match="is not reached"):
            gap(policy, sampler)
        served.drops = 0
        served.status["/v1/completions"] = 503
        with pytest.raises(SrftError, match="status 503"):
            gap(policy, sampler)
        served.status["/collective_rpc"] = 500
        with pytest.raises(SrftError, match="under the same path"):
            policy.sync(sampler)
        shutil.rmtree(tmp_path / "w")
        (tmp_path / "w").write_text("")
        with pytest.raises(SrftError, match="cannot be written"):
            policy.sync(sampler)
        sampler.close()


def test_a_run_samples_by_a_server_and_corrects(served: Served, tmp_path: Path) -> None:
    with serve(served) as url:
        changes = ["rollout.engine=server", f"rollout.server.urls=[{url}]", f"rollout.server.folder={tmp_path / 'w'}"]
        changes += ["evaluation.sets={}", "method.name=grpo", "rollout.correction=tis", "optim.lr=1e-3"]
        run = train(load_recipe("quickstart", [*SMALL, *changes]), tmp_path / "run")
    for row in run.metrics:
        assert row["sampling/sampling_logp_difference/mean"] < 1e-4
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-4)
    assert len(served.reloads) == 3  # as loaded, and after each of two steps


GARBAGE: dict[str, Callable[[Any], Any]] = {
    "empty": lambda answer: {},
    "too few": lambda answer: {"choices": answer["choices"][1:]},
    "no ids": lambda answer: {"choices": [choice | {"token_ids": None} for choice in answer["choices"]]},
    "nan": lambda answer: {
        "choices": [choice | {"logprobs": {"token_logprobs": [nan] * len(choice["token_ids"])}} for choice in answer["choices"]]
    },
    "shorter": lambda answer: {"choices": [choice | {"logprobs": {"token_logprobs": []}} for choice in answer["choices"]]},
}  # fmt: skip


def test_a_server_that_answers_garbage_or_begins_anew_is_told(served: Served, tokenizer: Any, tmp_path: Path) -> None:
    policy = Policy(load_model(MODEL))
    requests, params = [SampleRequest(PROMPTS[0], 1)], SamplingParams(n=2, max_response_length=4)
    with serve(served) as url:
        sampler = make_sampler(settings([url], tmp_path), policy, MODEL, tokenizer, max_model_len=256)
        for change in GARBAGE.values():
            served.garbage = change
            with pytest.raises(SrftError, match="its answer is not that of a vLLM server") as error:
                sampler.sample(requests, params)
            assert error.value.where == url
        served.garbage = lambda answer: answer
        served.instance = "2"
        with pytest.raises(SrftError, match=r"started anew[\s\S]*--resume"):
            sampler.sample(requests, params)
        sampler.close()


def test_a_server_dies_in_a_run_that_goes_on_with_another(served: Served, tmp_path: Path) -> None:
    changes = ["rollout.engine=server", f"rollout.server.folder={tmp_path / 'w'}", "training.checkpoint_every=1"]
    changes += ["evaluation.sets={}", "method.name=grpo", "optim.lr=1e-3", "rollout.max_response_length=32"]

    def recipe(url: str) -> Any:
        return load_recipe("quickstart", [*SMALL, *changes, f"rollout.server.urls=[{url}]"])

    def dying(answer: Any) -> Any:
        served.drops = 99 * (len(served.bodies) >= 4)  # after the first step's four prompts
        return answer

    with serve(served) as url:
        whole = train(recipe(url), tmp_path / "whole")
        served.bodies.clear()
        served.garbage = dying
        with pytest.raises(SrftError, match="is not reached"):
            train(recipe(url), tmp_path / "run")
    assert RunDir(tmp_path / "run").checkpoint.name == "step-000001"
    with serve(Served()) as url:
        again = train(recipe(url), tmp_path / "run", resume=True)
    for a, b in zip(whole.metrics, again.metrics, strict=True):
        assert b["reward"] == a["reward"]
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
    assert len(again.metrics) == 2


def test_an_evaluation_samples_by_a_server(served: Served, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "engine": "server",
        "server": {"folder": str(tmp_path / "weights")},
        "max_batch": 4,
        "template": "chat",
    }
    sampling = {"n": 2, "temperature": 1.0, "max_response_length": 32}
    with serve(served) as url:
        values["server"] |= {"urls": [url]}
        recipe = EvaluationRecipe.model_validate(
            {"model": MODEL, "benchmarks": "srft:arithmetic/test.jsonl:4", "sampling": sampling, **values}
        )
        results = evaluate(recipe, out=tmp_path / "e")
    assert results["settings"]["engine"] == "server"
    assert len((tmp_path / "e/test.jsonl").read_text().splitlines()) == 8
    assert len(served.bodies) == 4


@pytest.mark.slow
def test_two_processes_share_a_server(served: Served, tmp_path: Path) -> None:
    with serve(served) as url:
        launched = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
             "-m", "srft", "train", "quickstart", *SMALL, "rollout.engine=server", f"rollout.server.urls=[{url}]",
             f"rollout.server.folder={tmp_path / 'w'}", "evaluation.sets={}", "--out", str(tmp_path / "two")],
            capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert "2 × cpu" in launched.stdout
    rows = RunDir(tmp_path / "two").metrics
    assert [row["sampling/sampling_logp_difference/mean"] < 1e-4 for row in rows] == [True, True]
    assert len(served.reloads) == 3  # by one process
    assert len(served.bodies) == 8  # 4 prompts a step, by two
