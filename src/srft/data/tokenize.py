"""Problems as tokens: what the policy reads and what the expert answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from srft.data.problem import Problem
from srft.data.template import Template, after_opening, render
from srft.errors import SrftError


@dataclass(frozen=True)
class Demonstration:
    """An expert's response as tokens.

    Args:
        token_ids: token ids, ending in EOS unless `truncated`, e.g. (8, 2).
        truncated: cut at the length limit.
    """

    token_ids: tuple[int, ...]
    truncated: bool = False


@dataclass(frozen=True)
class Prompt:
    """A tokenised problem.

    Args:
        problem: what it was made of.
        token_ids: the prompt's token ids, e.g. (5, 17, 3).
        opening: the `<think>` that the prompt ends in, which the grader must see before the response.
        demonstrations: the expert's responses, within the length limit.
    """

    problem: Problem
    token_ids: tuple[int, ...]
    opening: str = ""
    demonstrations: tuple[Demonstration, ...] = ()


@dataclass(frozen=True)
class Counts:
    """How many problems and demonstrations were read, and how many demonstrations were over-long: truncated to the
    limit, or dropped."""

    problems: int
    demonstrations: int
    truncated: int
    dropped: int


@dataclass(frozen=True)
class TokenizedProblems:
    """Prompts in the order of their problems, with counts of what was cut."""

    prompts: list[Prompt]
    counts: Counts


def check_tokenizer(tokenizer: Any, where: str) -> None:
    """Raises SrftError without an EOS token. A missing pad token is no error: EOS pads, and padding is never read."""
    if tokenizer.eos_token_id is None:
        raise SrftError(
            "the tokenizer has no EOS token, so no response could end",
            where=where,
            fix="Set eos_token in its tokenizer_config.json.",
        )


def tokenize_problems(
    problems: Sequence[Problem],
    tokenizer: Any,
    *,
    template: Template,
    max_prompt_length: int | None,
    max_response_length: int | None,
    long_demonstrations: Literal["truncate", "drop"] = "truncate",
) -> TokenizedProblems:
    """Tokenise, in tokens of at most `max_prompt_length` and `max_response_length` (None: no limit).

    Plain text (a problem without a prompt) is no chat: its first token stands as the prompt, and the template does not
    touch it.

    Raises:
        SrftError: a prompt is longer than the limit.
    """
    prompts, long = [], []
    truncated = dropped = 0
    rendered = [render(problem, template, tokenizer) if problem.prompt else ("", "") for problem in problems]
    # A chat template writes its special tokens itself; a bare question gets the tokenizer's own (BOS).
    prompt_ids = _token_ids(tokenizer, [text for text, _ in rendered], add_special_tokens=not template.chat)
    responses = [
        after_opening(one, opening)
        for problem, (_, opening) in zip(problems, rendered, strict=True)
        for one in problem.demonstrations
        if problem.prompt
    ]
    plain_texts = [problem.demonstrations[0] for problem in problems if not problem.prompt]
    plain_ids = iter(_token_ids(tokenizer, plain_texts, add_special_tokens=True))
    response_ids = iter(_token_ids(tokenizer, responses, add_special_tokens=False))
    for problem, (_, opening), ids in zip(problems, rendered, prompt_ids, strict=True):
        if problem.prompt:
            answers = [next(response_ids) for _ in problem.demonstrations]
        else:  # as TRL: every token of the text but its first, which nothing precedes
            whole = next(plain_ids)
            ids, answers = whole[:1], [whole[1:]]
        if ids and ids[-1] == tokenizer.eos_token_id and problem.prompt and not template.chat:
            ids = ids[:-1]
        if max_prompt_length is not None and len(ids) > max_prompt_length:
            long.append((problem.where, len(ids)))
            continue
        demonstrations = []
        for tokens in answers:
            if not tokens or tokens[-1] != tokenizer.eos_token_id:
                tokens = [*tokens, tokenizer.eos_token_id]
            over = max_response_length is not None and len(tokens) > max_response_length
            if over and long_demonstrations == "drop":
                dropped += 1
                continue
            truncated += over
            demonstrations.append(Demonstration(tuple(tokens[:max_response_length]), over))
        prompts.append(Prompt(problem, tuple(ids), opening, tuple(demonstrations)))
    if long:
        where, length = max(long, key=lambda item: item[1])
        raise SrftError(
            f"{len(long)} of {len(problems)} prompts are longer than {max_prompt_length} tokens, the longest {length}",
            where=where,
            fix=f"Raise data.max_prompt_length to {length}, or remove those rows.",
        )
    read = sum(len(p.demonstrations) for p in problems)
    return TokenizedProblems(prompts, Counts(len(problems), read, truncated, dropped))


def _token_ids(tokenizer: Any, texts: list[str], add_special_tokens: bool) -> list[list[int]]:
    """Of all texts at once: a call for each takes several times as long."""
    return list(tokenizer(texts, add_special_tokens=add_special_tokens)["input_ids"]) if texts else []
