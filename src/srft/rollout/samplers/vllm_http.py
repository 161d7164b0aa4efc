"""An unchanged vLLM server, spoken to over HTTP: token ids in, token ids with log-probs out, its weights replaced from
a folder that it sees. What `srft.rollout.samplers.server` builds on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srft.errors import SrftError
from srft.policy.load import ModelSettings, config_changes, load_config

SHAPE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
ATTEMPTS = 3  # of a request whose connection broke; the same seed draws the same
DEVELOPMENT = "Start it with VLLM_SERVER_DEV_MODE=1 in its environment; vLLM replaces weights in that mode alone."
ADAPTERS = (
    "Start it with --enable-lora --max-lora-rank RANK and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment, or "
    "set rollout.server.lora: merged."
)


@dataclass(frozen=True)
class ServedModel:
    """What a server says of its model.

    Args:
        name: in requests.
        path: what it was loaded from, a folder there or a hub id.
        max_model_len: tokens of a prompt and its response.
        dtype: of its weights, e.g. "float32".
        logprobs_mode: e.g. "processed_logprobs".
        config_changes: what its `--hf-overrides` change of the model's config.
        max_lora_rank: of the adapters that it has room for; 0 where it takes none.
        instance: another one once it was started anew; "" where it does not say.
    """

    name: str
    path: str
    max_model_len: int
    dtype: str
    logprobs_mode: str
    config_changes: dict[str, Any]
    max_lora_rank: int
    instance: str


class VllmServer:
    """One server.

    Args:
        url: its address, e.g. http://gpu1:8000.
        timeout: seconds for one answer.
        parallel: requests at a time.
    """

    def __init__(self, url: str, timeout: float, parallel: int) -> None:
        import httpx

        self.url, self.timeout = url.rstrip("/").removesuffix("/v1"), timeout
        key = os.environ.get("VLLM_API_KEY")
        self.client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=10.0),
            limits=httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel),
        )

    def describe(self) -> ServedModel:
        """Its model.

        Raises:
            SrftError: it is not reached, or not in development mode.
        """
        models, info = (
            self._ask("GET", "/v1/models"),
            self._ask("GET", "/server_info?config_format=json", fix=DEVELOPMENT),
        )
        try:
            model = next(model for model in models["data"] if not model["parent"])
            config = info["vllm_config"]["model_config"]
            return ServedModel(
                name=model["id"],
                path=model["root"],
                max_model_len=model["max_model_len"],
                dtype=config["dtype"].removeprefix("torch."),
                logprobs_mode=config["logprobs_mode"],
                config_changes=config["hf_overrides"] or {},
                max_lora_rank=(info["vllm_config"].get("lora_config") or {}).get("max_lora_rank", 0),
                instance=info["vllm_config"].get("instance_id", ""),
            )
        except (KeyError, TypeError, StopIteration) as error:
            raise SrftError(f"it does not say of its model: {error!r}", where=self.url, fix="Take vLLM 0.32.") from None

    def knows_token(self, model: str, token_id: int) -> bool:
        """Whether the token is in its vocabulary."""
        body = {"model": model, "prompt": [token_id], "max_tokens": 1}
        reply = self._send("POST", "/v1/completions", body)
        return reply.status_code != 400 and bool(self._json(reply, "/v1/completions"))

    def complete(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices of a completion, in order.

        Raises:
            SrftError: it refuses, does not answer, or answers something else.
        """
        answer = self._ask("POST", "/v1/completions", body)
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            sound = len(choices) == body["n"] and all(_is_sound(choice, body["top_p"] == 1) for choice in choices)
        except (KeyError, TypeError):
            sound = False
        if not sound:
            fix = "See the server's log, and take vLLM 0.32."
            raise SrftError("its answer is not that of a vLLM server to what it was asked", where=self.url, fix=fix)
        return choices

    def check_instance(self, served: ServedModel) -> None:
        """Return nothing where it is the server that `served` describes.

        Raises:
            SrftError: it was started anew since, or is not reached.
        """
        if self.describe().instance != served.instance:
            raise SrftError(
                "the vLLM server was started anew in the middle of the run: it has not the policy's weights any more",
                where=self.url,
                fix="Continue with --resume, which hands them over first.",
            )

    def load(self, folder: Path) -> None:
        """Replace its weights by those in a folder, and forget what it cached of the old ones.

        Raises:
            SrftError: it cannot.
        """
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        fix = (
            f"It must see {folder} under the same path (rollout.server.folder) and serve the recipe's model. Start it "
            "anew: a server that failed to read weights has ended."
        )
        self._ask("POST", "/collective_rpc", reload, fix=fix)
        self._forget()

    def load_adapters(self, folder: Path, name: str, instead_of: str | None) -> None:
        """Take the LoRA adapters in a folder by that name, and drop those by another one.

        Raises:
            SrftError: it cannot.
        """
        fix = f"It must see {folder} under the same path. {ADAPTERS}"
        self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}, fix=fix)
        if instead_of:
            self.drop_adapters(instead_of)

    def drop_adapters(self, name: str) -> None:
        """Those by that name."""
        self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        self._forget()

    def _forget(self) -> None:
        if self._ask("POST", "/reset_prefix_cache").get("success") is False:
            raise SrftError("the server keeps cached prompts of the old weights", where=self.url, fix="Use it alone.")

    def close(self) -> None:
        """End its connections."""
        self.client.close()

    def _ask(self, method: str, path: str, body: Any = None, fix: str = "See the server's log.") -> Any:
        """A JSON answer, {} where it is none."""
        return self._json(self._send(method, path, body), path, fix)

    def _json(self, reply: Any, path: str, fix: str = "See the server's log.") -> Any:
        if reply.status_code >= 400:
            raise SrftError(
                f"the vLLM server refuses {path}: status {reply.status_code}, {reply.text[:300]}",
                where=self.url,
                fix=fix,
            )
        if "json" not in reply.headers.get("content-type", ""):
            return {}
        try:
            return reply.json()
        except ValueError as error:
            raise SrftError(f"the answer to {path} is no JSON: {error}", where=self.url, fix=fix) from None

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        import httpx

        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                return self.client.request(method, path, json=body)
            except httpx.TimeoutException:
                raise SrftError(
                    f"the vLLM server did not answer {path} in {self.timeout:g} s",
                    where=self.url,
                    fix="Raise rollout.server.timeout, or add servers.",
                ) from None
            except httpx.TransportError as error:
                broke = isinstance(error, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError)
                if not (broke and attempts_left):
                    raise SrftError(
                        f"the vLLM server is not reached: {error}",
                        where=self.url,
                        fix="Check rollout.server.urls, and that it runs: curl URL/health.",
                    ) from None
        return None


def _is_sound(choice: Mapping[str, Any], known: bool) -> bool:
    """Token ids, each with a log-prob, which is one where it is `known`."""
    ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    of_probabilities = not known or all(x < 1e-3 for x in logprobs)  # nan is none
    return all(isinstance(i, int) for i in ids) and len(logprobs) == len(ids) and of_probabilities


def check_logprobs(served: ServedModel, url: str) -> None:
    """Raises SrftError where its log-probs are not those of the distribution sampled from."""
    if served.logprobs_mode != "processed_logprobs":
        raise SrftError(
            f"its log-probs are {served.logprobs_mode}, without the temperature",
            where=url,
            fix="Start it with --logprobs-mode processed_logprobs.",
        )


def check_model(server: VllmServer, served: ServedModel, model: ModelSettings) -> None:
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
