"""Rollouts by vLLM servers on other GPUs or machines. Their weights are replaced in place after each update, from a
folder that they and the first training process see."""

from __future__ import annotations

import importlib.util
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import cycle
from math import nan
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from srft.errors import SrftError
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings
from srft.processes import first
from srft.rollout.sampler import Sample, Sampler, SamplerContext, SampleRequest, SamplingParams
from srft.rollout.samplers.lora import HandOver, adapted_policy, check_lora
from srft.rollout.samplers.vllm import parameters_of, whole_group
from srft.rollout.samplers.vllm_http import ADAPTERS, ServedModel, VllmServer, check_logprobs, check_model
from srft.section import Section

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
        folder: where weights are written; of this sampler alone, the same on every process.
        parallel: requests at a time.
        adapted: the policy whose LoRA adapters alone are handed over, after its other weights once.
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
        lora: HandOver = "merged"

    def __init__(
        self,
        servers: Mapping[VllmServer, ServedModel],
        stop_token_ids: set[int],
        folder: Path,
        parallel: int,
        adapted: Policy | None = None,
    ) -> None:
        self.servers, self.folder, self.adapted = servers, folder, adapted
        self.adapters: Path | None = None  # those that the servers have, by the folder's name
        self.updates = 0
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
        check_lora(options.lora, model, "rollout.server.lora")
        for url in options.urls:
            server = VllmServer(url, options.timeout, 1)
            served = server.describe()
            check_logprobs(served, url)
            if model is not None:
                check_model(server, served, model)
                if options.lora == "adapters" and model.lora and served.max_lora_rank < model.lora.rank:
                    raise SrftError(f"it takes no LoRA adapters of rank {model.lora.rank}", where=url, fix=ADAPTERS)
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
        (name,) = broadcast_object_list([uuid.uuid4().hex[:12]])
        folder = Path(options.folder).absolute() / f"srft-{name}"
        return cls(served, context.stop_token_ids, folder, options.parallel, adapted_policy(context))

    def sample(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[list[Sample]]:
        """See `Sampler.sample`. With `top_p` below 1 log-probs are nan: the servers have them after the cut alone."""

        def answer(server: VllmServer, request: SampleRequest) -> list[Sample]:
            body = {
                "model": self.adapters.name if self.adapters else self.servers[server].name,
                "prompt": list(request.prompt_ids),
                "return_token_ids": True,
                **NEUTRAL,
                **parameters_of(request, params, self.stop_token_ids),
            }
            return whole_group([_sample(choice, params.top_p == 1) for choice in server.complete(body)], params)

        groups = []
        for group in self.pool.map(answer, cycle(self.servers), requests):
            groups.append(group)
            self.progress(len(group))
        list(self.pool.map(VllmServer.check_instance, self.servers, self.servers.values()))
        return groups

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Write the policy's weights into the folder and have each server read them. Every process reads all of
        `weights`, which a sharded policy gathers; the first one writes."""
        if self.adapted is None:
            self._hand_over(weights)
            return
        if self.adapters is None:
            self._hand_over(self.adapted.weights(with_lora=False))
        self._hand_over_adapters(self.adapted)

    def close(self) -> None:
        """End the connections, and remove what the servers and the folder hold of this sampler's."""
        main = PartialState().is_main_process
        for server in self.servers:
            if main and self.adapters:
                with suppress(SrftError):  # it may be what ended the run
                    server.drop_adapters(self.adapters.name)
            server.close()
        self.pool.shutdown(cancel_futures=True)
        if main:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _hand_over(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        folder = self._new_folder()
        dtypes = {getattr(torch, model.dtype) for model in self.servers.values()}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
        _write(weights, folder, dtype, write=PartialState().is_main_process)
        self._tell(lambda server: server.load(folder), done_with=folder)

    def _hand_over_adapters(self, policy: Policy) -> None:
        folder, old = self._new_folder(), self.adapters
        policy.save_adapters(folder, write=PartialState().is_main_process)
        self._tell(lambda server: server.load_adapters(folder, folder.name, old.name if old else None), done_with=old)
        self.adapters = folder

    def _new_folder(self) -> Path:
        """A path that was not there before, the same on every process: nothing of an old one can be cached."""
        self.updates += 1
        return self.folder / f"{self.folder.name}-{self.updates}"

    def _tell(self, what: Callable[[VllmServer], None], done_with: Path | None) -> None:
        """Let the first process tell every server, and remove the folder that no server reads any more."""

        def tell() -> None:
            list(self.pool.map(what, self.servers))
            if done_with:
                shutil.rmtree(done_with, ignore_errors=True)

        first(PartialState(), tell)


def _write(weights: Iterable[tuple[str, Tensor]], folder: Path, dtype: torch.dtype, write: bool) -> None:
    """The weights as safetensors files of bounded size.

    Raises:
        SrftError: the folder cannot be written.
    """
    part: dict[str, Tensor] = {}
    files = 0

    def flush() -> None:
        nonlocal files
        if part:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                save_file(part, folder / f"model-{files:05d}.safetensors")
            except (OSError, SafetensorError) as error:
                raise SrftError(
                    f"the weights cannot be written: {error}", where=str(folder), fix="Free some space there."
                ) from error
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
