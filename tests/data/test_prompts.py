"""Templates and tokens: the `<think>` trap, EOS, and what happens to what is too long."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from srft.data import TEMPLATES, Problem, TokenizedProblems, check_tokenizer, render, tokenize_problems
from srft.errors import SrftError

LIMITS = {"max_prompt_length": 2000, "max_response_length": 60}
THINKING_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def tokenized(tokenizer: Any, template: str, *demonstrations: str, **limits: Any) -> TokenizedProblems:
    problem = Problem("2 + 3?", "5", demonstrations)
    return tokenize_problems([problem], tokenizer, template=TEMPLATES[template], **{**LIMITS, **limits})


@pytest.mark.parametrize("own", [False, True], ids=["prefilled by the template", "opened by the model's chat template"])
def test_thinking_is_opened_once(tokenizer: Any, own: bool) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    if own:
        tokenizer.chat_template = THINKING_CHAT
    (prompt,) = tokenized(tokenizer, "chat" if own else "srft", "<think>\nfive</think>\\boxed{5}").prompts
    text = tokenizer.decode(prompt.token_ids)
    assert text.endswith("<think>\n")
    assert text.count("<|im_start|>assistant\n<think>\n") == 1
    assert prompt.opening == "<think>\n"
    assert tokenizer.decode(prompt.demonstrations[0].token_ids) == "five</think>\\boxed{5}<|im_end|>"


def test_thinking_stays_where_the_prompt_opens_none(tokenizer: Any) -> None:
    (prompt,) = tokenized(tokenizer, "qwen-math", "<think>\nfive</think>\\boxed{5}").prompts
    assert prompt.opening == ""
    assert tokenizer.decode(prompt.demonstrations[0].token_ids) == "<think>\nfive</think>\\boxed{5}<|im_end|>"
    assert "within \\boxed{}" in tokenizer.decode(prompt.token_ids)


def test_templates(tokenizer: Any) -> None:
    luffy = Problem(({"role": "system", "content": "old"}, {"role": "user", "content": "2 + 3?"}))
    text, _ = render(luffy, TEMPLATES["srft"], tokenizer)
    assert "old" not in text
    assert "Your task is to follow" in text
    assert render(luffy, TEMPLATES["chat"], tokenizer)[0].count("old") == 1
    assert render(luffy, TEMPLATES["none"], tokenizer)[0] == "2 + 3?"
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(SrftError, match="no chat template"):
        render(luffy, TEMPLATES["chat"], bare)


def test_eos_and_the_limit(tokenizer: Any) -> None:
    eos = tokenizer.eos_token_id
    read = tokenized(tokenizer, "chat", "5", "1 " * 200, "5<|im_end|>")
    (prompt,), counts = read.prompts, read.counts
    short, long, ended = prompt.demonstrations
    assert short.token_ids[-1] == eos
    assert (len(long.token_ids), long.token_ids[-1] == eos) == (60, False)
    assert ended == short  # not ended twice
    assert [d.truncated for d in prompt.demonstrations] == [False, True, False]
    assert (counts.problems, counts.demonstrations, counts.truncated, counts.dropped) == (1, 3, 1, 0)
    read = tokenized(tokenizer, "chat", "5", "1 " * 200, long_demonstrations="drop")
    (prompt,), counts = read.prompts, read.counts
    assert prompt.demonstrations == (short,)
    assert (counts.truncated, counts.dropped) == (0, 1)


def test_long_prompts_are_an_error(tokenizer: Any) -> None:
    with pytest.raises(SrftError, match="1 of 1 prompts are longer than 3 tokens"):
        tokenized(tokenizer, "chat", max_prompt_length=3)


def test_a_tokenizer_without_eos_is_refused(tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    check_tokenizer(tokenizer, "here")
    tokenizer.pad_token = None
    check_tokenizer(tokenizer, "here")  # EOS pads
    tokenizer.eos_token = None
    with pytest.raises(SrftError, match="no EOS"):
        check_tokenizer(tokenizer, "here")
