"""Templates: a problem as the text that the model reads (SRFT App. B, Figs. A3 and A4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from srft.data.problem import Problem
from srft.errors import SrftError

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
        system: the system message; None leaves the problem's own.
        prefill: what the response is made to begin with.
    """

    chat: bool = True
    system: str | None = None
    prefill: str = ""


TEMPLATES: Mapping[str, Template] = {
    "srft": Template(system=SRFT_SYSTEM, prefill="<think>\n"),
    "qwen-math": Template(system="Please reason step by step, and put your final answer within \\boxed{}."),
    "assistant": Template(system="You are a helpful assistant."),  # PSFT A.2, alignment
    "chat": Template(),
    "none": Template(chat=False),
}


def render(problem: Problem, template: Template, tokenizer: Any) -> tuple[str, str]:
    """The prompt's text, and the `<think>` opening that it ends in ("" where it does not).

    Raises:
        SrftError: the template needs a chat template and the tokenizer has none.
    """
    prompt = problem.prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
    if not template.chat:
        text = "\n\n".join(m["content"] for m in messages if m["role"] != "system")
    else:
        if template.system is not None:
            messages = [m for m in messages if m["role"] != "system"]
            messages = [{"role": "system", "content": template.system}, *messages]
        if not getattr(tokenizer, "chat_template", None):
            raise SrftError("the tokenizer has no chat template", where="data.template", fix="Use data.template: none.")
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if not text.endswith(template.prefill):
            # A chat template that opens the thinking itself must not have it opened twice.
            text = re.sub(r"<think>\s*\Z", "", text) + template.prefill
    return text, "<think>\n" if re.search(r"<think>\s*\Z", text) else ""


def after_opening(demonstration: str, opening: str) -> str:
    """A demonstration that follows `opening`: its own `<think>` goes, or the model would learn to open it twice."""
    return re.sub(r"\A\s*<think>\n?", "", demonstration) if opening else demonstration
