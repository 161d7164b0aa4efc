"""Templates: a problem as the text that the model reads (SRFT App. B, Figs. A3 and A4)."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from srft.data.problem import Problem
from srft.errors import SrftError, did_you_mean, reason

JINJA = (".jinja", ".jinja2")
LONGEST_RENDERING = 10.0  # seconds that a chat template may take for one prompt
LONGEST_PROMPT = 10_000_000  # characters that it may make of one
SRFT_SYSTEM = """\
Your task is to follow a systematic, thorough reasoning process before providing the final solution. This involves \
analyzing, summarizing, exploring, reassessing, and refining your thought process through multiple iterations. \
Structure your response into two sections: Thought and Solution. In the Thought section, present your reasoning using \
the format: "<think>\\n {thoughts} </think>\\n". Each thought should include detailed analysis, brainstorming, \
verification, and refinement of ideas. After "</think>\\n" in the Solution section, provide the final, logical, and \
accurate answer, clearly derived from the exploration in the Thought section. If applicable, include the answer in \
\\boxed{} for closed-form results like multiple choices or mathematical solutions."""


@dataclass(frozen=True)
class Template:
    """How a question is put to the model.

    Args:
        chat: through the tokenizer's chat template; else the question as it stands.
        system: the system message; None leaves the problem's own, "" takes it away.
        prefill: what the response is made to begin with.
        chat_template: Jinja text in place of the tokenizer's chat template.
        examples: solved problems that stand before every other one; their first demonstrations are shown.
    """

    chat: bool = True
    system: str | None = None
    prefill: str = ""
    chat_template: str | None = None
    examples: tuple[Problem, ...] = ()


TEMPLATES: Mapping[str, Template] = {
    "srft": Template(system=SRFT_SYSTEM, prefill="<think>\n"),
    "qwen-math": Template(system="Please reason step by step, and put your final answer within \\boxed{}."),
    "assistant": Template(system="You are a helpful assistant."),  # PSFT A.2, alignment
    "chat": Template(),
    "none": Template(chat=False),
}


def check_template_name(name: str) -> str:
    """The name, where it is a packaged template's or a Jinja file's.

    Raises:
        ValueError: it is neither.
    """
    if name not in TEMPLATES and not name.endswith(JINJA):
        raise ValueError(f"unknown template '{name}'. {did_you_mean(name, TEMPLATES)} Or a file that ends in .jinja.")
    return name


def render(problem: Problem, template: Template, tokenizer: Any) -> tuple[str, str]:
    """The prompt's text, and the `<think>` opening that it ends in ("" where it does not).

    Raises:
        SrftError: the template needs a chat template and the tokenizer has none, or the chat template fails.
    """
    messages = as_messages(problem.prompt)
    if template.system is not None:
        messages = [m for m in messages if m["role"] != "system"]
        messages = [{"role": "system", "content": template.system}] * bool(template.system) + messages
    system = list(takewhile(lambda m: m["role"] == "system", messages))
    rest = messages[len(system) :]
    examples = [example for example in template.examples if example.prompt != problem.prompt]
    if not template.chat:
        shown = [_plain(as_messages(one.prompt)) + one.demonstrations[0] for one in examples]
        text = "\n\n".join([*(m["content"] for m in system), *shown, _plain(rest)])
    else:
        turns = [turn for one in examples for turn in _as_turns(one)]
        text = apply_chat_template([*system, *turns, *rest], template, tokenizer)
        if not text.endswith(template.prefill):
            # A chat template that opens the thinking itself must not have it opened twice.
            text = re.sub(r"<think>\s*\Z", "", text) + template.prefill
    return text, "<think>\n" if re.search(r"<think>\s*\Z", text) else ""


def as_messages(prompt: str | Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """A prompt as messages; a text is the user's."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]


def _plain(messages: Sequence[Mapping[str, str]]) -> str:
    return "\n\n".join(m["content"] for m in messages)


def _as_turns(example: Problem) -> list[dict[str, str]]:
    """An example in a chat: its prompt without a system message, and the assistant's response."""
    asked = [m for m in as_messages(example.prompt) if m["role"] != "system"]
    return [*asked, {"role": "assistant", "content": example.demonstrations[0]}]


def apply_chat_template(
    messages: Sequence[Mapping[str, str]], template: Template, tokenizer: Any, *, opens: bool = True
) -> str:
    """Messages as the text that the model reads, by the template's chat template or the tokenizer's own.

    Args:
        opens: with the opening of the assistant's turn.

    Raises:
        SrftError: there is none, or it fails, takes too long or makes too much of them.
    """
    if not (template.chat_template or getattr(tokenizer, "chat_template", None)):
        fix = "Use data.template: none, or a chat template of your own (data.template: path.jinja)."
        raise SrftError("the tokenizer has no chat template", where="data.template", fix=fix)
    try:
        with _time_limit(LONGEST_RENDERING):
            text = tokenizer.apply_chat_template(
                list(messages), chat_template=template.chat_template, tokenize=False, add_generation_prompt=opens
            )
        if len(text) > LONGEST_PROMPT:
            raise ValueError(f"a prompt of {len(text)} characters")
        return str(text)
    except Exception as error:  # a template may do whatever its sandbox allows
        roles = ", ".join(m["role"] for m in messages)
        fix = "Correct the template, or the messages; data.system: '' leaves system messages out."
        raise SrftError(
            f"the chat template fails on messages of {roles}: {reason(error)}", where="data.template", fix=fix
        ) from None


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError after so long, in the main thread, where alone a signal can end what runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"it takes more than {seconds:g} seconds")

    handler = signal.signal(signal.SIGALRM, stop)
    # Again every second: what is raised in a callback of another library may be swallowed there.
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining, interval)
        signal.signal(signal.SIGALRM, handler)


def after_opening(demonstration: str, opening: str) -> str:
    """A demonstration that follows `opening`: its own `<think>` goes, or the model would learn to open it twice."""
    return re.sub(r"\A\s*<think>\n?", "", demonstration) if opening else demonstration
