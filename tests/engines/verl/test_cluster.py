"""What is asked of verl's servers and workers, with stand-ins for them."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srft import SrftError
from srft.data.load import resolve_path
from srft.engines.verl.policy import ShardedPolicy
from srft.engines.verl.sampler import VerlSampler
from srft.policy.load import ModelSettings, load_config, stop_token_ids
from srft.rollout.sampler import SampleRequest, SamplingParams

EOS = 2


class Servers:
    """Answers with the prompt's last token, the seed's parity and EOS; prompts that end in 9 never end."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.awake, self.woken = False, 0

    def get_llm_client(self) -> Servers:
        return self

    def wake(self) -> None:
        self.awake, self.woken = True, self.woken + 1

    async def generate(self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Any:
        self.asked.append(sampling_params)
        ids = [prompt_ids[-1], 10 + sampling_params["seed"] % 2, *([] if prompt_ids[-1] == 9 else [EOS])]
        return SimpleNamespace(token_ids=ids, log_probs=[-0.5] * len(ids))


REQUESTS = [SampleRequest((3, 4), seed=7), SampleRequest((5, 9), seed=8)]


def test_every_response_is_a_request_with_a_seed_of_its_own() -> None:
    servers = Servers()
    sampler = VerlSampler(servers, {EOS})  # type: ignore[arg-type]
    params = SamplingParams(n=4, temperature=0.7, max_response_length=11)
    groups = sampler.sample(REQUESTS, params)
    assert [[s.token_ids[0] for s in group] for group in groups] == [[4] * 4, [9] * 4]
    assert [s.truncated for group in groups for s in group] == [False] * 4 + [True] * 4
    assert len({asked["seed"] for asked in servers.asked}) == 8
    assert {(asked["temperature"], asked["max_tokens"]) for asked in servers.asked} == {(0.7, 11)}
    assert all(asked["stop_token_ids"] == [EOS] and asked["ignore_eos"] for asked in servers.asked)
    assert sampler.sample(REQUESTS, params) == groups
    assert servers.woken == 1  # they were asleep, and then not
    alone = VerlSampler(Servers(), {EOS}).sample(REQUESTS[1:], params)  # type: ignore[arg-type]
    assert alone == groups[1:]  # what is drawn depends on the request alone


def test_greedy_groups_are_drawn_once() -> None:
    servers = Servers()
    groups = VerlSampler(servers, {EOS}).sample(REQUESTS, SamplingParams(n=3, temperature=0))  # type: ignore[arg-type]
    assert len(servers.asked) == 2
    assert [len(group) for group in groups] == [3, 3]


def test_log_probs_after_a_cut_are_not_those_of_the_policy() -> None:
    groups = VerlSampler(Servers(), {EOS}).sample(REQUESTS, SamplingParams(n=1, top_p=0.9))  # type: ignore[arg-type]
    assert all(isnan(x) for x in groups[0][0].logprobs)


class Workers:
    """Two ranks that write and read files as verl's do."""

    world_size = 2

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []
        self.load_checkpoint = lambda folder: self.read.append(("all", folder))
        self.load_weights = lambda folder: self.read.append(("weights", folder))

    def save_checkpoint(self, folder: str, *rest: Any) -> None:
        (Path(folder) / "huggingface").mkdir(parents=True)
        (Path(folder) / "huggingface/model.safetensors").touch()
        for rank in range(self.world_size):
            (Path(folder) / f"model_world_size_{self.world_size}_rank_{rank}.pt").touch()


def policy_of(workers: Workers) -> ShardedPolicy:
    model = ModelSettings(path="srft:model")
    cluster: Any = SimpleNamespace(actor_rollout_wg=workers, sleep=lambda: None)
    return ShardedPolicy(cluster, load_config(model), resolve_path(model.path))


def test_a_checkpoint_is_a_model_with_verls_shards_beside_it(tmp_path: Path, tokenizer: Any) -> None:
    workers = Workers()
    policy = policy_of(workers)
    checkpoint, shards = tmp_path / "checkpoints/step-000002", tmp_path / "trainer/step-000002/verl"
    checkpoint.mkdir(parents=True)
    policy.save(checkpoint, tokenizer)
    assert (checkpoint / "model.safetensors").is_file()
    assert (checkpoint / "tokenizer.json").is_file()
    assert [file.name for file in sorted(shards.iterdir())] == [f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1)]
    policy.load(checkpoint, resume=True)
    policy.load(checkpoint, resume=False)
    assert workers.read == [("all", str(shards)), ("weights", str(shards))]
    workers.world_size = 4
    with pytest.raises(SrftError, match="2 ranks saved it, 4 are to read it"):
        policy.load(checkpoint, resume=True)


def test_a_checkpoint_of_another_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SrftError, match="verl did not save it"):
        policy_of(Workers()).load(tmp_path, resume=True)


def test_what_else_ends_a_response_is_known_without_the_model(tokenizer: Any) -> None:
    assert stop_token_ids(tokenizer, policy_of(Workers())) == {tokenizer.eos_token_id}
