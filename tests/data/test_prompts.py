"""Templates and tokens: the `<think>` trap, EOS, and what happens to what is too long."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from srft.data import (
    TEMPLATES,
    FewShot,
    Problem,
    PromptSettings,
    TokenizedProblems,
    check_tokenizer,
    make_template,
    render,
    tokenize_problems,
)
from srft.errors import SrftError
from srft.evaluation.settings import EvaluationSettings
from srft.evaluation.task import make_tasks

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
    assert render(luffy, TEMPLATES["none"], tokenizer)[0] == "old\n\n2 + 3?"
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


EXAMPLES = [{"prompt": "1 + 1?", "completion": "\\boxed{2}"}, {"prompt": "2 + 2?", "completion": "\\boxed{4}"}]


def rendered(tokenizer: Any, prompt: Any = "2 + 3?", **settings: Any) -> str:
    return render(Problem(prompt), make_template(PromptSettings.model_validate(settings)), tokenizer)[0]


def test_system_and_examples(tokenizer: Any) -> None:
    """The same in a chat and without one; an example is not shown before its own prompt."""
    few_shot = {"rows": EXAMPLES}
    chat = rendered(tokenizer, template="chat", system="Add.", few_shot=few_shot)
    turns = [
        "system\nAdd.",
        "user\n1 + 1?",
        "assistant\n\\boxed{2}",
        "user\n2 + 2?",
        "assistant\n\\boxed{4}",
        "user\n2 + 3?",
    ]
    assert chat == "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns) + "<|im_start|>assistant\n"
    plain = rendered(tokenizer, template="none", system="Add.", few_shot=few_shot)
    assert plain == "Add.\n\n1 + 1?\\boxed{2}\n\n2 + 2?\\boxed{4}\n\n2 + 3?"
    assert rendered(tokenizer, "1 + 1?", template="none", few_shot=few_shot) == "2 + 2?\\boxed{4}\n\n1 + 1?"
    assert rendered(tokenizer, template="none", few_shot={**few_shot, "count": 1}) == "1 + 1?\\boxed{2}\n\n2 + 3?"
    srft = rendered(tokenizer, template="srft", few_shot=few_shot)
    assert srft.index("Your task is to follow") < srft.index("1 + 1?") < srft.index("2 + 3?")
    assert srft.endswith("<think>\n")


def test_system_may_be_taken_away(tokenizer: Any) -> None:
    chat = ({"role": "system", "content": "old"}, {"role": "user", "content": "2 + 3?"})
    for template in ("chat", "none", "srft"):
        text = rendered(tokenizer, chat, template=template, system="")
        assert "old" not in text
        assert "Your task" not in text
        assert "new" in rendered(tokenizer, chat, template=template, system="new")


def test_a_chat_template_of_ones_own(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = None  # a base model's
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] ")
    assert rendered(tokenizer, template=str(file), system="s") == "[system] s\n[user] 2 + 3?\n[assistant] "
    file.write_text("{{ ''.__class__.__mro__ }}")
    with pytest.raises(SrftError, match="chat template fails on messages of user"):
        rendered(tokenizer, template=str(file))  # the sandbox
    with pytest.raises(SrftError, match=r"data\.template: .*absent\.jinja: cannot be read"):
        rendered(tokenizer, template=str(tmp_path / "absent.jinja"))
    with pytest.raises(ValidationError, match=r"unknown template 'qwen-maths'. Did you mean 'qwen-math'\?"):
        PromptSettings(template="qwen-maths")
    with pytest.raises(SrftError, match=r"few_shot\.rows, row 0: an example without a solution"):
        rendered(tokenizer, few_shot={"rows": [{"prompt": "1 + 1?"}]})


@pytest.mark.parametrize("template", ["none", "chat", "srft"])
def test_plain_text_is_learnt_from_its_second_token_on(tokenizer: Any, template: str) -> None:
    text = "12 + 3 = 15"
    prompt, other = tokenize_problems(
        [Problem("", demonstrations=(text,)), Problem("2 + 3?", demonstrations=("5",))],
        tokenizer,
        template=TEMPLATES[template],
        **LIMITS,
    ).prompts
    whole = (*prompt.token_ids, *prompt.demonstrations[0].token_ids)
    assert (whole, len(prompt.token_ids)) == ((*tokenizer(text)["input_ids"], tokenizer.eos_token_id), 1)
    assert tokenizer.decode(other.demonstrations[0].token_ids) == "5<|im_end|>"


def test_a_runs_evaluations_are_asked_as_its_training_is(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    (tmp_path / "own.csv").write_text("q,gold\n2 + 3?,5\n")
    own = {"path": f"{tmp_path}/own.csv", "columns": {"prompt": "q", "answer": "gold"}}
    data = PromptSettings(template=f"{tmp_path}/mine.jinja", system="Add.", few_shot=FewShot(rows=(EXAMPLES[0],)))

    def asked(**changes: Any) -> str:
        settings = EvaluationSettings.model_validate({"sets": {"own": own}, **changes})
        (task,) = make_tasks(settings, tokenizer, prompts=data)
        assert task.problems[0].answer == "5"
        return tokenizer.decode(task.groups[0].prompt.token_ids)

    assert asked() == "<Add.><1 + 1?><\\boxed{2}><2 + 3?>"
    assert asked(system="", few_shot={}) == "<2 + 3?>"
    assert asked(template="none", few_shot={"rows": [EXAMPLES[1]]}) == "Add.\n\n2 + 2?\\boxed{4}\n\n2 + 3?"
    (tmp_path / "own.csv").write_text("text\n2 + 3 = 5\n")
    own.pop("columns")
    with pytest.raises(SrftError, match="plain `text` has no prompt to answer"):
        asked()
