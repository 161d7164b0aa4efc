"""A judge behind an OpenAI-compatible endpoint, and how its verdicts are read."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from srft.errors import SrftError
from srft.safe_text import redacted

Messages = Sequence[Mapping[str, str]]
ATTEMPTS = 5
RETRIED = (408, 409, 429, 500, 502, 503, 504)

PAIR_SYSTEM = """\
You compare two assistants' answers to a user's request. First work out a good answer yourself. Then weigh how \
correct, helpful, relevant and concise each answer is, and name mistakes. The order of the answers and their lengths \
must not matter. End with exactly one of these verdicts: [[A>>B]] if A is much better, [[A>B]] if A is better, [[A=B]] \
if they are alike, [[B>A]] if B is better, [[B>>A]] if B is much better."""
PAIR_PROMPT = """\
<request>
{question}
</request>

<answer_A>
{answer_a}
</answer_A>

<answer_B>
{answer_b}
</answer_B>"""
CHOICE_SYSTEM = """\
You compare two models' outputs for an instruction, as a person who gave it would. Reply with one character: m if the \
first output is better, M if the second is."""


@dataclass(frozen=True)
class Endpoint:
    """Where the judge is.

    Args:
        url: up to and with /v1.
        model: as the endpoint calls it.
        key_variable: the environment variable that holds the key; it is sent where it is set, and written nowhere.
        timeout: seconds for one answer.
        parallel: requests at a time.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    parallel: int = 8
    max_tokens: int = 2048

    @property
    def _key(self) -> str:
        """Without the newline that a file's key ends in; "" where there is none."""
        return os.environ.get(self.key_variable, "").strip()

    def check(self) -> None:
        """Raises SrftError where the client is not installed, the address is none, or the key is no header's text."""
        if importlib.util.find_spec("httpx") is None:
            raise SrftError("asking a judge needs httpx", where="judge", fix="pip install 'srft[judge]'")
        if not self.url.startswith(("http://", "https://")):
            raise SrftError(f"'{self.url}' is no address", where="--judge-url", fix="Give http://HOST:PORT/v1.")
        if not (self._key.isascii() and self._key.isprintable()):
            fix = "Set it to the key alone."
            raise SrftError(
                "it holds what no key does: a line break, a control character", where=f"${self.key_variable}", fix=fix
            )

    def ask_all(self, requests: Sequence[Messages], take: Callable[[int, dict[str, Any]], None], **more: Any) -> None:
        """Hand each request's reply to `take` with its number, in their order.

        Raises:
            SrftError: the endpoint refuses, or does not answer repeatedly.
        """
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with (
            httpx.Client(headers=headers, timeout=self.timeout) as client,
            ThreadPoolExecutor(self.parallel, thread_name_prefix="srft-judge") as threads,
        ):
            futures = [threads.submit(self._ask, client, messages, more) for messages in requests]
            try:
                for i, future in enumerate(futures):
                    take(i, future.result())
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, client: Any, messages: Messages, more: Mapping[str, Any]) -> dict[str, Any]:
        import httpx

        body = {
            "model": self.model,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": self.max_tokens,
            **more,
        }
        reason = ""
        for attempt in range(ATTEMPTS):
            try:
                reply = client.post(f"{self.url.rstrip('/')}/chat/completions", json={**body, **more})
                if reply.status_code == 200:
                    choice = reply.json()["choices"][0]
                    text = redacted(str(choice["message"]["content"] or ""), self._key)  # kept on disk
                    return {"text": text, "logprobs": choice.get("logprobs")}
                reason = redacted(f"status {reply.status_code}: {reply.text}", self._key)[:200]
                if reply.status_code not in RETRIED:
                    break
            except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
                reason = f"{type(error).__name__}: {error}"
            if attempt < ATTEMPTS - 1:
                time.sleep(min(2.0**attempt / 2, 20))
        raise SrftError(
            redacted(f"the judge does not answer: {reason}", self._key),
            where=self.url,
            fix=f"Check --judge-url, --judge-model and ${self.key_variable}. What was judged is kept.",
        )


class PairVerdict(NamedTuple):
    """A comparison: the share of the win, 0 to 1, and its weight."""

    win: float
    weight: int


def rating(text: str) -> float | None:
    """The last [[7]] of a judgement, 1 to 10 (MT-Bench); None where there is none."""
    ratings = re.findall(r"\[\[(\d+(?:\.\d+)?)\]\]", text) or re.findall(r"\[(\d+(?:\.\d+)?)\]", text)
    return float(ratings[-1]) if ratings and 0 <= float(ratings[-1]) <= 10 else None


def pairwise(text: str) -> PairVerdict | None:
    """The last verdict of a comparison as A's share of the win and its weight: much better counts three times
    (Arena-Hard). [[A]], [[B]] and [[C]] (a tie) are read too. None where there is none."""
    wins = {
        ">>": PairVerdict(1.0, 3), ">": PairVerdict(1.0, 1), "=": PairVerdict(0.5, 1),
        "<": PairVerdict(0.0, 1), "<<": PairVerdict(0.0, 3),
    }  # fmt: skip
    verdicts = re.findall(r"\[\[(?:([AB])(>>|>|=|<<|<)([AB])|([ABC]))\]\]", text)
    if not verdicts:
        return None
    first, sign, _, letter = verdicts[-1]
    if letter:
        return PairVerdict({"A": 1.0, "B": 0.0, "C": 0.5}[letter], 1)
    verdict = wins[sign]
    return verdict if first == "A" else PairVerdict(1 - verdict.win, verdict.weight)


def preference(reply: Mapping[str, Any]) -> float | None:
    """How much the judge prefers the second output, 0 to 1 (AlpacaEval): from the log-probs of its one character where
    the endpoint gives them, else from the character."""
    content = (reply.get("logprobs") or {}).get("content") or []
    if content:
        mass = {"m": 0.0, "M": 0.0}
        for option in content[0].get("top_logprobs") or [content[0]]:
            if (token := str(option["token"]).strip()) in mass:
                mass[token] += math.exp(option["logprob"])
        if sum(mass.values()) > 0:
            return mass["M"] / sum(mass.values())
    letter = re.search(r"[mM]", str(reply["text"]))
    return None if letter is None else float(letter[0] == "M")
