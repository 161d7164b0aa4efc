"""Whether the tokens that are trained on say what the data says, and begin as the model expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srft.data.template import Template, after_opening, apply_chat_template, as_messages
from srft.data.tokenize import Prompt
from srft.errors import SrftError

MOST = 50  # prompts that are looked at
ALTERED = 0.05  # share of demonstrations


def template_faults(prompts: Sequence[Prompt], template: Template, tokenizer: Any) -> list[str]:
    """What template and tokenizer do to prompts and demonstrations that the model did not learn so; mostly nothing."""
    asked = [p for p in prompts if p.problem.prompt][:: max(1, len(prompts) // MOST)]
    faults = (_begin(asked, tokenizer), _turn(asked, template, tokenizer), _altered(asked, tokenizer))
    return [fault for fault in faults if fault]


def _begin(prompts: Sequence[Prompt], tokenizer: Any) -> str:
    """BOS stands once at the beginning, of a tokenizer that writes it by itself."""
    bos = tokenizer.bos_token_id
    if bos is None or not prompts or tokenizer("a")["input_ids"][0] != bos:
        return ""
    ids = prompts[0].token_ids
    count = next((i for i, token in enumerate(ids) if token != bos), len(ids))
    return "" if count == 1 else f"prompts begin with {count} BOS tokens ({tokenizer.bos_token}), the model expects one"


def _turn(prompts: Sequence[Prompt], template: Template, tokenizer: Any) -> str:
    """The chat template opens the assistant's turn."""
    if not template.chat or not prompts:
        return ""
    messages = as_messages(prompts[0].problem.prompt)
    try:
        closed, opened = (apply_chat_template(messages, template, tokenizer, opens=opens) for opens in (False, True))
    except SrftError:  # of these messages alone, without the template's own system message
        return ""
    return "the chat template does not open the assistant's turn (add_generation_prompt)" if closed == opened else ""


def _altered(prompts: Sequence[Prompt], tokenizer: Any) -> str:
    """Demonstrations come back from their tokens as they are, but for spaces."""
    kept = []
    for prompt in prompts:
        texts = [after_opening(text, prompt.opening) for text in prompt.problem.demonstrations]
        wanted = {"".join(text.removesuffix(tokenizer.eos_token).split()) for text in texts}
        whole = [demo.token_ids[:-1] for demo in prompt.demonstrations if not demo.truncated]  # without EOS
        kept += ["".join(tokenizer.decode(ids).split()) in wanted for ids in whole]
    altered = kept.count(False)
    if altered <= ALTERED * len(kept):
        return ""
    return f"the tokenizer changes {altered} of {len(kept)} demonstrations: it lacks letters of theirs, or folds them"
