"""A small server that speaks as much of vLLM's HTTP as the sampler uses, with the policy's own network behind it."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file

from srft.data.load import resolve_path
from srft.policy.load import ModelSettings, load_model
from srft.rollout.sampler import SampleRequest, SamplingParams
from srft.rollout.samplers.transformers import TransformersSampler


class Served:
    """What the server says and what it was asked; a test changes the former before it is asked.

    Args:
        status: by path, what is answered in place of its answer.
        garbage: changes what it answers to a completion.
        instance: changes where it is started anew.
        reloads: the folders that weights were read from, with the names and dtypes of the weights.
        bodies: of the completions.
        adapters: what holds the LoRA adapters by name, on the weights as they were then.
    """

    def __init__(self) -> None:
        self.model = load_model(ModelSettings(path="srft:model"))
        self.config: dict[str, Any] = {
            "dtype": "torch.float32", "logprobs_mode": "processed_logprobs", "hf_overrides": {},
        }  # fmt: skip
        self.path, self.max_model_len, self.vocabulary = resolve_path("srft:model"), 1024, self.model.config.vocab_size
        self.status: dict[str, int] = {}
        self.garbage: Callable[[Any], Any] = lambda answer: answer
        self.drops = 0  # connections that break before the next completions are answered
        self.reloads: list[tuple[Path, dict[str, torch.dtype]]] = []
        self.bodies: list[dict[str, Any]] = []
        self.adapters: dict[str, Any] = {}
        self.lora: dict[str, Any] | None = {"max_lora_rank": 16}
        self.instance = "1"
        self.lock = threading.Lock()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path in self.status:
            return self.status[path], {"error": "as the test says"}
        if path == "/v1/models":
            model = {"id": "policy", "root": self.path, "max_model_len": self.max_model_len, "parent": None}
            return 200, {"data": [{**model, "id": "adapter", "parent": "policy"}, model]}
        if path == "/server_info":
            config = {"model_config": self.config, "lora_config": self.lora, "instance_id": self.instance}
            return 200, {"vllm_config": config}
        if path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            return self.reload(Path(body["kwargs"]["weights_path"]))
        if path == "/v1/load_lora_adapter":
            assert body["lora_name"] not in self.adapters
            model = PeftModel.from_pretrained(copy.deepcopy(self.model), body["lora_path"])
            self.adapters[body["lora_name"]] = model
            return 200, {}
        if path == "/v1/unload_lora_adapter":
            del self.adapters[body["lora_name"]]
            return 200, {}
        if path == "/reset_prefix_cache":
            return 200, {"success": True}
        if path == "/v1/completions":
            return self.complete(body)
        return 404, {"error": path}

    def reload(self, folder: Path) -> tuple[int, Any]:
        files = sorted(folder.glob("*.safetensors"))
        weights = {name: value for file in files for name, value in load_file(file).items()}
        if not weights:
            return 500, {"error": "no weights"}
        self.model.load_state_dict(weights)
        self.reloads.append((folder, {name: value.dtype for name, value in weights.items()}))
        return 200, {"results": [None]}

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        if max(body["prompt"]) >= self.vocabulary:
            return 400, {"error": "out of vocabulary"}
        if "seed" not in body:  # the check of the vocabulary
            return 200, {"choices": [{}]}
        params = SamplingParams(
            n=body["n"], temperature=body["temperature"], top_p=body["top_p"], max_response_length=body["max_tokens"]
        )
        with self.lock:
            self.bodies.append(body)
            model = self.model if body["model"] == "policy" else self.adapters[body["model"]]
            sampler = TransformersSampler(model, 0, set(body["stop_token_ids"]))
            (group,) = sampler.sample([SampleRequest(body["prompt"], body["seed"])], params)
        choices = [
            {"index": i, "token_ids": s.token_ids, "logprobs": {"token_logprobs": s.logprobs},
             "finish_reason": "length" if s.truncated else "stop"}
            for i, s in enumerate(group)
        ]  # fmt: skip
        return 200, self.garbage({"choices": choices[::-1]})


@contextmanager
def serve(served: Served) -> Iterator[str]:
    """The server's address, as long as it is entered."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            if path == "/v1/completions" and served.drops:
                served.drops -= 1
                self.close_connection = True
                return
            status, answer = served.answer(path, json.loads(body or b"{}"))
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
