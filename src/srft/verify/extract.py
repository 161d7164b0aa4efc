"""The answer of a response that boxes none: for models that were never taught to."""

from __future__ import annotations

import re

from srft.verify.answer import answer_of

_STATED = re.compile(r"####|\banswer(?: is)?:|\banswer is\b", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def boxed(text: str) -> str:
    """The response as it stands where it boxes an answer; else with a box around the last one that it states. Thinking
    that never ended answers nothing."""
    if answer_of(text) is not None or ("<think>" in text and "</think>" not in text):
        return text
    stated = last_answer(text.rpartition("</think>")[2])
    return f"{text}\n\\boxed{{{stated}}}" if stated else text


def last_answer(text: str) -> str | None:
    """What follows the last "####", "answer:" or "answer is" in its line, after an "="; else the last number."""
    *_, end = (0, *(match.end() for match in _STATED.finditer(text)))
    if end:
        line = text[end:].lstrip(": ").partition("\n")[0].rpartition("=")[2]
        if stated := line.replace("$", "").replace("**", "").strip().rstrip(".").strip():
            return stated
    numbers = _NUMBER.findall(text)
    return numbers[-1].rstrip(",") if numbers else None
