"""Verdicts as judges write them, and judged benchmarks against a local server."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from srft.cli import app
from srft.errors import SrftError
from srft.evaluation.external.alignment import ALIGNMENTS, judge
from srft.evaluation.external.judge import Endpoint, pairwise, preference, rating
from tests.conftest import shared


@pytest.mark.parametrize(
    ("text", "value"), [("so [[3]] no, [[7.5]]", 7.5), ("Rating: [8]", 8.0), ("[[11]]", None), ("eight", None)]
)
def test_ratings(text: str, value: float | None) -> None:
    assert rating(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[[A>>B]]", (1.0, 3)), ("[[B>>A]]", (0.0, 3)), ("[[A>B]] or rather [[A=B]]", (0.5, 1)), ("[[B>A]]", (0.0, 1)),
        ("[[A<<B]]", (0.0, 3)), ("[[B<A]]", (1.0, 1)), ("[[B]]", (0.0, 1)), ("[[C]]", (0.5, 1)), ("A is better", None),
    ],
)  # fmt: skip
def test_pairwise_verdicts(text: str, value: tuple[float, int] | None) -> None:
    assert pairwise(text) == value


def test_preferences_weigh_log_probs() -> None:
    top = [
        {"token": "M", "logprob": math.log(0.6)},
        {"token": "m", "logprob": math.log(0.2)},
        {"token": "x", "logprob": -2.0},
    ]
    assert preference(
        {"text": "m", "logprobs": {"content": [{"token": "m", "logprob": 0.0, "top_logprobs": top}]}}
    ) == pytest.approx(0.75)
    assert preference({"text": " M", "logprobs": None}) == 1
    assert preference({"text": "m"}) == 0
    assert preference({"text": "?"}) is None


class Judge(BaseHTTPRequestHandler):
    """Rates 6 and 4, prefers whichever answer stands first a little, fails now and then."""

    seen: ClassVar[list[dict[str, Any]]] = []
    broken = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({**body, "key": self.headers.get("Authorization"), "path": self.path})
        status = 400 if Judge.broken else 503 if len(self.seen) % 5 == 2 else 200
        system, text = body["messages"][0]["content"], body["messages"][-1]["content"]
        said = (
            "[[A>B]]"
            if "[[A>>B]]" in system
            else "m"
            if "m if the" in system
            else "[[4]]"
            if "Question 2" in text
            else "[[6]]"
        )
        key = self.headers.get("Authorization")  # which this endpoint echoes, as some do in errors
        choice: dict[str, Any] = {"message": {"content": f"{said} {key}"}}
        reply = json.dumps({"choices": [choice]} if status == 200 else {"error": f"{'x' * 180} {key}"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    pytest.importorskip("httpx", reason="asking a judge needs httpx (extra `judge`)")
    monkeypatch.setenv("JUDGE_KEY", "secret\n")  # as a file holds it
    monkeypatch.setattr("srft.evaluation.external.judge.time.sleep", lambda seconds: None)
    Judge.seen, Judge.broken = [], False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "judge-1", "JUDGE_KEY", parallel=2)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("benchmark", sorted(ALIGNMENTS))
def test_a_judged_benchmark(
    tmp_path: Path, endpoint: Endpoint, benchmark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if benchmark != "alpaca-eval":  # chats longer than the embedded model's window
        monkeypatch.setattr(
            "srft.evaluation.external.alignment._model", lambda *_: lambda chats, seeds: [f"a{len(c)}" for c in chats]
        )
    data = shared(f"data/{ALIGNMENTS[benchmark].files[0]}").parent
    options: dict[str, Any] = {"data_dir": data, "out": tmp_path, "limit": 3, "max_length": 6}
    result = judge("srft:model", benchmark, endpoint, **options)
    assert result["questions"] == 3
    assert result["unread"] == 0
    if benchmark == "mt-bench":
        assert result["turn1"] == 6
    elif benchmark == "arena-hard":
        assert result["win_rate"] == 50  # what stands first wins, and each stands first once
        assert result["win_rate_ci"] == (50, 50)
    else:
        assert result["win_rate"] in (0, pytest.approx(100 / 3), pytest.approx(200 / 3), 100)
        assert len(json.loads((tmp_path / "alpaca-eval.outputs.json").read_text())) == 3
    assert {r["path"] for r in Judge.seen} == {"/v1/chat/completions"}
    assert {r["key"] for r in Judge.seen} == {"Bearer secret"}
    assert "secret" not in "".join(file.read_text() for file in tmp_path.iterdir())
    asked = len(Judge.seen)
    assert judge("srft:model", benchmark, endpoint, **options) == result
    assert len(Judge.seen) == asked  # all that was judged is kept
    with pytest.raises(SrftError, match=r"--out"):
        judge("srft:model", benchmark, endpoint, **{**options, "max_length": 7})


def test_a_judge_that_refuses_is_told(tmp_path: Path, endpoint: Endpoint) -> None:
    Judge.broken = True
    data = shared("data/mt_bench_question.jsonl").parent
    with pytest.raises(SrftError, match="status 400") as error:
        judge("srft:model", "mt-bench", endpoint, data_dir=data, out=tmp_path, limit=1, max_length=4)
    assert "secret" not in str(error.value)
    with pytest.raises(SrftError, match="no address"):
        judge("srft:model", "mt-bench", Endpoint("nowhere", "j"), data_dir=data, out=tmp_path)
    with pytest.raises(SrftError, match="Did you mean 'mt-bench'"):
        judge("srft:model", "mtbench", endpoint, data_dir=data, out=tmp_path)
    with pytest.raises(SrftError, match="no such file"):
        judge("srft:model", "mt-bench", endpoint, data_dir=tmp_path, out=tmp_path)


def test_a_key_that_is_none_is_told_without_it(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.check()
    monkeypatch.setenv("JUDGE_KEY", "one\ntwo")
    with pytest.raises(SrftError, match="JUDGE_KEY: it holds what no key does") as error:
        endpoint.check()
    assert "two" not in str(error.value)


def test_an_endpoint_that_echoes_the_key(endpoint: Endpoint) -> None:
    replies: list[str] = []
    endpoint.ask_all([[{"role": "user", "content": "q"}]], lambda _, reply: replies.append(reply["text"]))
    assert replies == ["[[6]] Bearer ***"]
    Judge.broken = True
    with pytest.raises(SrftError, match="status 400") as error:
        endpoint.ask_all([[{"role": "user", "content": "q"}]], lambda _, reply: None)
    assert "secre" not in str(error.value)


def test_the_command_line_asks_the_judge(tmp_path: Path, endpoint: Endpoint) -> None:
    data = shared("data/alpaca_eval2_baseline_gpt4_1106.json").parent
    result = CliRunner().invoke(
        app,
        ["judge", "srft:model", "--benchmark", "alpaca-eval", "--judge-url", endpoint.url, "--judge-model", "j",
         "--data-dir", str(data), "--out", str(tmp_path), "--limit", "2", "--max-length", "4", "--key-variable", "NONE"],
        catch_exceptions=False,
    )  # fmt: skip
    assert "alpaca-eval, 2 questions: win_rate" in result.output
    assert {r["key"] for r in Judge.seen} == {None}
