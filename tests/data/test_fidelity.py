"""What template and tokenizer may do to the data, and that the packaged ones do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tokenizers.normalizers import Lowercase
from tokenizers.processors import TemplateProcessing

from srft.data.fidelity import template_faults
from srft.data.problem import Problem
from srft.data.template import TEMPLATES, Template
from srft.data.tokenize import tokenize_problems
from srft.policy.load import ModelSettings, load_tokenizer

PROBLEMS = [
    Problem(f"Add {i} to 3.", str(i + 3), demonstrations=(f"It is\n\n \\boxed{{{i + 3}}}.",)) for i in range(40)
]
CHAT = TEMPLATES["chat"]


@pytest.fixture
def tokenizer() -> Any:
    """Of the embedded model, to be changed."""
    return load_tokenizer(ModelSettings(path="srft:model"))


def faults(tokenizer: Any, template: Template = CHAT, problems: list[Problem] = PROBLEMS) -> list[str]:
    read = tokenize_problems(problems, tokenizer, template=template, max_prompt_length=None, max_response_length=60)
    return template_faults(read.prompts, template, tokenizer)


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_packaged_templates_have_none(tokenizer: Any, template: str) -> None:
    assert faults(tokenizer, TEMPLATES[template]) == []


def with_bos(tokenizer: Any) -> Any:
    """Writes BOS before a text by itself."""
    name = tokenizer.eos_token
    ids = [(name, tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{name} $A", special_tokens=ids)
    tokenizer.bos_token = name
    return tokenizer


@pytest.mark.parametrize(("begins", "count"), [("", 0), ("{{ bos_token }}", 1), ("{{ bos_token }}{{ bos_token }}", 2)])
def test_bos_stands_once(tokenizer: Any, begins: str, count: int) -> None:
    own = replace(CHAT, chat_template=begins + "{{ messages[-1].content }}{% if add_generation_prompt %}>{% endif %}")
    found = faults(with_bos(tokenizer), own)
    assert found == (
        [] if count == 1 else [f"prompts begin with {count} BOS tokens (<|im_end|>), the model expects one"]
    )


def test_a_chat_template_opens_the_assistants_turn(tokenizer: Any) -> None:
    (fault,) = faults(tokenizer, replace(CHAT, chat_template="{{ messages[-1].content }}"))
    assert fault.startswith("the chat template does not open")


def test_a_tokenizer_that_folds_letters_changes_demonstrations(tokenizer: Any) -> None:
    assert faults(tokenizer) == []
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    assert faults(tokenizer) == [
        "the tokenizer changes 40 of 40 demonstrations: it lacks letters of theirs, or folds them"
    ]
    rarely = [replace(p, demonstrations=("it is",)) for p in PROBLEMS[2:]]
    assert faults(tokenizer, problems=[*PROBLEMS[:2], *rarely]) == []  # 2 of 40


def test_text_without_a_prompt_and_without_demonstrations(tokenizer: Any) -> None:
    assert faults(tokenizer, problems=[Problem("", "", demonstrations=("Any text.",))]) == []
    assert faults(tokenizer, problems=[Problem("1 + 2?", "3")]) == []
