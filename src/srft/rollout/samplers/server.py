"""Rollouts by vLLM servers on other GPUs or machines. Their weights are replaced in place after each update, from a
folder that they and the first training process see."""

from __future__ import annotations

import importlib.util
import json
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from math import nan
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import PartialState
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from srft.errors import SrftError
from srft.policy.load import ModelSettings, config_changes, load_config
from srft.processes import first
from srft.rollout.sampler import Sample, Sampler, SamplerContext, SampleRequest, SamplingParams
from srft.rollout.samplers.vllm import parameters_of, whole_group
from srft.rollout.samplers.vllm_http import ServedModel, VllmServer
from srft.section import Section

SHAPE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
FILE_BYTES = 4 << 30
NEUTRAL = {  # what a server would else take from its model's generation config
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class ServerSampler(Sampler):
    """Samples by vLLM servers, which all training processes share.

    Args:
        servers: with the model that each serves.
        stop_token_ids: any of these ends a response and is kept in it.
        folder: where weights are written; of this sampler alone.
        parallel: requests at a time.
    """

    name: ClassVar[str] = "server"

    class Options(Section):
        """vLLM servers."""

        urls: tuple[str, ...] = Field((), description="of the servers, e.g. [http://gpu1:8000]")
        folder: str | None = Field(
            None,
            description="seen by the servers under the same path; new weights are handed over in it",
        )
        timeout: float = Field(1800.0, gt=0, description="seconds for one answer: a group's responses, or new weights")
        parallel: int = Field(256, gt=0, description="prompts in flight of each training process")

    def __init__(
        self, servers: Mapping[VllmServer, ServedModel], stop_token_ids: set[int], folder: Path, parallel: int
    ) -> None:
        self.servers, self.folder = servers, folder
        self.stop_token_ids = sorted(stop_token_ids)
        self.pool = ThreadPoolExecutor(parallel)

    @classmethod
    def check(cls, options: Any, model: ModelSettings | None) -> None:
        """The servers are there, serve this model with this config, and give the log-probs that are needed."""
        if importlib.util.find_spec("httpx") is None:
            raise SrftError("a vLLM server needs httpx", where="rollout.engine", fix="pip install 'srft[server]'")
        if not options.urls or not options.folder:
            raise SrftError(
                f"rollout.engine: server has no {'folder' if options.urls else 'urls'}",
                where="rollout.server",
                fix="Say rollout.server.urls=[http://HOST:8000] and rollout.server.folder=FOLDER, seen by both sides.",
            )
        for url in options.urls:
            server = VllmServer(url, options.timeout, 1)
            served = server.describe()
            _check_logprobs(served, url)
            if model is not None:
                _check_model(server, served, model)
            server.close()
        try:
            Path(options.folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SrftError(
                str(error), where=f"rollout.server.folder: {options.folder}", fix="Name another folder."
            ) from None

    @classmethod
    def build(cls, context: SamplerContext) -> ServerSampler:
        """See `Sampler.build`."""
        options = context.options
        servers = [VllmServer(url, options.timeout, options.parallel) for url in options.urls]
        served = {server: server.describe() for server in servers}
        for server, model in served.items():
            if model.max_model_len < context.max_model_len:
                raise SrftError(
                    f"it takes {model.max_model_len} tokens, the recipe's sequences {context.max_model_len}",
                    where=server.url,
                    fix=f"Start it with --max-model-len {context.max_model_len} or more.",
                )
        folder = Path(options.folder).absolute() / f"weights-{uuid.uuid4().hex[:12]}"
        return cls(served, context.stop_token_ids, folder, options.parallel)

    def sample(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[list[Sample]]:
        """See `Sampler.sample`. With `top_p` below 1 log-probs are nan: the servers have them after the cut alone."""

        def answer(server: VllmServer, request: SampleRequest) -> list[Sample]:
            body = {
                "model": self.servers[server].name,
                "prompt": list(request.prompt_ids),
                "return_token_ids": True,
                **NEUTRAL,
                **parameters_of(request, params, self.stop_token_ids),
            }
            return whole_group([_sample(choice, params.top_p == 1) for choice in server.complete(body)], params)

        return list(self.pool.map(answer, cycle(self.servers), requests))

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Write the policy's weights into the folder and have each server read them. Every process reads all of
        `weights`, which a sharded policy gathers; the first one writes."""
        folder = self.folder / uuid.uuid4().hex[:12]  # a new path each time: nothing of the old one can be cached
        dtypes = {getattr(torch, model.dtype) for model in self.servers.values()}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
        _write(weights, folder, dtype, write=PartialState().is_main_process)
        first(PartialState(), partial(self._hand_over, folder))

    def close(self) -> None:
        """End the connections and remove what lies in the folder."""
        self.pool.shutdown()
        for server in self.servers:
            server.close()
        if PartialState().is_main_process:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _hand_over(self, folder: Path) -> None:
        list(self.pool.map(lambda server: server.load(folder), self.servers))
        shutil.rmtree(folder)


def _write(weights: Iterable[tuple[str, Tensor]], folder: Path, dtype: torch.dtype, write: bool) -> None:
    """The weights as safetensors files of bounded size."""
    part: dict[str, Tensor] = {}
    files = 0

    def flush() -> None:
        nonlocal files
        if part:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(part, folder / f"model-{files:05d}.safetensors")
            files += 1
            part.clear()

    for name, tensor in weights:
        if not write:
            continue
        part[name] = tensor.to("cpu", dtype if tensor.is_floating_point() else None, copy=True).contiguous()
        if sum(t.nbytes for t in part.values()) >= FILE_BYTES:
            flush()
    flush()


def _sample(choice: Mapping[str, Any], known: bool) -> Sample:
    ids = list(choice["token_ids"])
    if choice["finish_reason"] not in ("stop", "length"):
        raise SrftError(f"the vLLM server ended a response: {choice['finish_reason']}", fix="See the server's log.")
    logprobs = choice["logprobs"]["token_logprobs"] if known else [nan] * len(ids)
    return Sample(ids, logprobs, truncated=choice["finish_reason"] != "stop")


def _check_logprobs(served: ServedModel, url: str) -> None:
    if served.logprobs_mode != "processed_logprobs":
        raise SrftError(
            f"its log-probs are {served.logprobs_mode}, without the temperature",
            where=url,
            fix="Start it with --logprobs-mode processed_logprobs.",
        )


def _check_model(server: VllmServer, served: ServedModel, model: ModelSettings) -> None:
    """Raises SrftError where the server's model is another one, as far as can be seen from here."""
    changes = config_changes(model)
    overrides = f"with --hf-overrides '{json.dumps(changes)}'" if changes else "without --hf-overrides"
    if json.loads(json.dumps(changes)) != served.config_changes:
        raise SrftError(
            f"its model's config has other changes, {json.dumps(served.config_changes)}, than model.config",
            where=server.url,
            fix=f"Start it {overrides}.",
        )
    config = load_config(model).get_text_config()
    if Path(served.path).is_dir():
        theirs = load_config(ModelSettings(path=served.path, trust_remote_code=model.trust_remote_code))
        for key in SHAPE:
            if (here := getattr(config, key, None)) != (there := getattr(theirs.get_text_config(), key, None)):
                raise _other_model(server, served, f"{key} is {there}, not {here}")
    if not server.knows_token(served.name, config.vocab_size - 1) or server.knows_token(served.name, config.vocab_size):
        raise _other_model(server, served, f"its vocabulary has not {config.vocab_size} tokens")


def _other_model(server: VllmServer, served: ServedModel, what: str) -> SrftError:
    return SrftError(
        f"it serves another model, {served.path}: {what}", where=server.url, fix="Serve the recipe's model.path."
    )
