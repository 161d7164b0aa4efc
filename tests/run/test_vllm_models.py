"""Trained models in vLLM: a run directory of LoRA adapters in an evaluation, and an export by itself."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from srft import load_recipe, train
from srft.evaluation.run import evaluate
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, load_model, load_tokenizer, stop_token_ids
from srft.recipe.load import load_evaluation
from srft.rollout.engine import SamplerSettings, make_sampler
from srft.rollout.sampler import SampleRequest, SamplingParams
from srft.rollout.samplers.vllm import VllmSampler
from srft.run.export import export
from tests.helpers import SMALL

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed; see docs/recipes.md for its environment",
    ),
]


def test_a_run_of_adapters_is_evaluated_and_exported(tmp_path: Path) -> None:
    """vLLM's greedy responses are those of transformers, with the rope_theta that the adapters were trained with."""
    pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")
    changes = [*SMALL, "method.name=sft", "optim.lr=1e-3", "evaluation.sets={}", "data.limit=16"]
    train(load_recipe("quickstart", [*changes, "model.lora.rank=4", "model.config.rope_theta=40000"]), tmp_path / "run")
    sets = ["sets.test={path: 'srft:arithmetic/test.jsonl', limit: 6}", "template=chat", "sampling.temperature=0"]
    drawn = []
    for engine in ("transformers", "vllm"):
        recipe = load_evaluation(
            str(tmp_path / "run"), [*sets, "sampling.max_response_length=64", f"engine={engine}", "precision=fp32"]
        )
        evaluate(recipe, out=tmp_path / engine)
        lines = (tmp_path / engine / "test.jsonl").read_text().splitlines()
        drawn.append([json.loads(line)["response"] for line in lines])
    assert drawn[0] == drawn[1]

    export(tmp_path / "run", tmp_path / "model", merge=True, dtype="fp32")
    settings = ModelSettings(path=str(tmp_path / "model"))
    tokenizer, policy = load_tokenizer(settings), Policy(load_model(settings))
    stop = stop_token_ids(tokenizer, policy.causal_lm)
    requests = [SampleRequest(tokenizer(f"Start with {i}, add 4.")["input_ids"], i) for i in range(4)]
    params = SamplingParams(n=1, temperature=0.0, max_response_length=32)
    alone = VllmSampler(settings, stop_token_ids=stop, max_model_len=256, options=VllmSampler.Options())
    theirs = [group[0].token_ids for group in alone.sample(requests, params)]  # of the weights that vLLM read itself
    alone.close()
    ours = make_sampler(SamplerSettings(engine="transformers"), policy, settings, tokenizer, max_model_len=256)
    assert theirs == [group[0].token_ids for group in ours.sample(requests, params)]
