"""What is evaluated, checked and tokenised before anything is sampled: a benchmark, or problems of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srft.data.make_template import make_template
from srft.data.problem import Problem
from srft.data.settings import PromptSettings
from srft.data.template import Template
from srft.data.tokenize import Prompt, tokenize_problems
from srft.errors import SrftError
from srft.evaluation import ifeval
from srft.evaluation.benchmarks import Benchmark, Choice, Measure, choose
from srft.evaluation.load import Source, load_benchmark
from srft.evaluation.protocol import Protocol, resolve_protocol
from srft.evaluation.settings import EvaluationSettings
from srft.rollout.response import Group
from srft.rollout.sampler import SamplingParams
from srft.verify.grading import needs_answer
from srft.verify.settings import GRADER, VerifySettings


@dataclass(frozen=True)
class EvaluationTask:
    """One benchmark of an evaluation.

    Args:
        name: of its results and of its file of records.
        groups: a prompt each; `group_id` is the problem's number in the benchmark. Empty where the loss alone is
            measured.
        params: how responses are drawn.
        extract: which answer counts: the "boxed" one alone, or failing that the "last" one that is stated.
        source: where the problems came from.
        benchmark: None for problems of the user's own.
        held_out: prompts with the demonstrations whose loss is measured; empty where none is.
    """

    name: str
    groups: Sequence[Group]
    params: SamplingParams
    extract: str
    source: Source
    benchmark: Benchmark | None = None
    held_out: Sequence[Prompt] = ()

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts that are sampled from; where none is, those whose demonstrations are scored."""
        return [group.prompt for group in self.groups] or list(self.held_out)

    @property
    def problems(self) -> list[Problem]:
        """The problems, in order."""
        return [prompt.problem for prompt in self.prompts]

    @property
    def grader(self) -> str:
        """The grader of its problems."""
        return self.problems[0].grader

    @property
    def longest(self) -> int:
        """Tokens of its longest prompt and a response together, at most."""
        limit = self.params.max_response_length
        sampled = [len(group.prompt.token_ids) + limit for group in self.groups]
        scored = [len(p.token_ids) + len(d.token_ids) for p in self.held_out for d in p.demonstrations]
        return max([*sampled, *scored])

    @property
    def facts(self) -> dict[str, Any]:
        """What must be alike for its responses to go on being collected."""
        return {
            "problems": len(self.groups), "samples": self.params.n, "temperature": self.params.temperature,
            "top_p": self.params.top_p, "max_response_length": self.params.max_response_length,
            "extract": self.extract, "grader": self.grader, "sha256": self.source.sha256,
        }  # fmt: skip


def make_tasks(
    settings: EvaluationSettings,
    tokenizer: Any,
    *,
    verify: VerifySettings = VerifySettings(),
    prompts: PromptSettings | None = None,
    max_response_length: int | None = None,
    max_prompt_length: int | None = None,
    seed: int = 0,
    held_out_loss: bool = False,
) -> list[EvaluationTask]:
    """The benchmarks, then the user's own sets; none where the settings name none.

    Args:
        verify: which answer counts and which grader, where the settings say nothing.
        prompts, max_response_length: in place of the protocol's, where the settings say nothing.
        max_prompt_length: tokens; None for no limit.
        seed: decides the order of multiple-choice options.
        held_out_loss: measure the loss of demonstrations, where the user's own sets have some and do not say.

    Raises:
        SrftError: an unknown benchmark or one named twice, missing or malformed data, a prompt beyond the limit, no
            demonstrations where their loss is asked for.
    """
    protocol = resolve_protocol(
        settings, prompts=prompts, max_response_length=max_response_length, extract=verify.extract
    )
    template = make_template(protocol.prompts)
    choices = choose_tasks(settings)
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    default: Measure = "both" if held_out_loss else "answers"
    return [
        _make_task(c, protocol, verify, template, tokenizer, data_dir, max_prompt_length, seed, default)
        for c in choices
    ]


def choose_tasks(settings: EvaluationSettings) -> list[Choice]:
    """What the settings name: benchmarks, then sets. Reads no data.

    Raises:
        SrftError: an unknown benchmark, or one named twice.
    """
    choices = choose(settings.benchmarks, settings.limit) if settings.benchmarks else []
    for name, own in settings.sets.items():
        if any(choice.name == name for choice in choices):
            where = f"evaluation.sets.{name}"
            raise SrftError(f"'{name}' is named twice", where=where, fix="Give the set another name.")
        limit = own.limit or settings.limit
        choices.append(Choice(name, limit, own.path, None, own.split, own.options, own.columns, own.measure))
    return choices


def check_window(tasks: Sequence[EvaluationTask], config: Any) -> None:
    """Whether every prompt and its response fit the model's window.

    Args:
        config: of the model.

    Raises:
        SrftError: they do not.
    """
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    for task in tasks:
        if window and task.longest > window and not task.groups:
            raise SrftError(
                f"{task.name}'s longest demonstration takes {task.longest} tokens with its prompt, the model's window "
                f"holds {window}",
                where="template",
                fix="Take a shorter template, lower sampling.max_response_length, or widen "
                "model.config.max_position_embeddings.",
            )
        if window and task.longest > window:
            length = task.params.max_response_length
            prompt = task.longest - length
            raise SrftError(
                f"{task.name}'s longest prompt takes {prompt} tokens and a response up to {length}, "
                f"the model's window holds {window}",
                where="sampling.max_response_length",
                fix=f"Give sampling.max_response_length={max(window - prompt, 1)}, or widen "
                "model.config.max_position_embeddings.",
            )


def _make_task(
    choice: Choice,
    protocol: Protocol,
    verify: VerifySettings,
    template: Template,
    tokenizer: Any,
    data_dir: Path | None,
    max_prompt_length: int | None,
    seed: int,
    default: Measure,
) -> EvaluationTask:
    loaded = load_benchmark(choice, data_dir=data_dir, seed=seed)
    if loaded.problems[0].grader == "ifeval":
        ifeval.check(loaded.problems)
    params = protocol.sampling_of(choice)
    problems = [replace(p, grader=_grader(p, choice, protocol, verify)) for p in loaded.problems]
    plain = [p.where for p in problems if not p.prompt]
    if choice.benchmark is None and default == "both" and any(p.demonstrations for p in problems):
        graded = verify.function or verify.rewards or any(p.answer or not needs_answer(p) for p in problems)
        default = "both" if graded and not plain else "loss"
    measure = "answers" if choice.benchmark else choice.measure or default
    if plain and measure != "loss":
        fix = "Measure its loss (`measure: loss`), or give problems with a prompt."
        raise SrftError("plain `text` has no prompt to answer", where=plain[0], fix=fix)
    prompts = tokenize_problems(
        problems,
        tokenizer,
        template=template,
        max_prompt_length=max_prompt_length,
        max_response_length=params.max_response_length,
    ).prompts
    held_out = [prompt for prompt in prompts if prompt.demonstrations] if measure != "answers" else []
    if held_out and choice.measure is None and not any(_is_gradable(prompt.problem, verify) for prompt in prompts):
        measure = "loss"
    if choice.measure in ("loss", "both") and not held_out:
        raise SrftError(
            f"'{choice.name}' has no demonstrations whose loss could be measured",
            where=f"evaluation.sets.{choice.name}.measure",
            fix="Give its rows a column `completion`, `target` or `demonstrations`, or measure answers.",
        )
    groups = [Group(number, _without_demonstrations(prompt)) for number, prompt in enumerate(prompts)]
    return EvaluationTask(
        choice.name,
        [] if measure == "loss" else groups,
        params,
        protocol.extract,
        loaded.source,
        choice.benchmark,
        held_out,
    )


def _is_gradable(problem: Problem, verify: VerifySettings) -> bool:
    """It has an answer, or none of its rewards needs one."""
    return bool(problem.answer) or GRADER not in verify.weights or not needs_answer(problem)


def _without_demonstrations(prompt: Prompt) -> Prompt:
    return replace(prompt, problem=replace(prompt.problem, demonstrations=()), demonstrations=())


def _grader(problem: Problem, choice: Choice, protocol: Protocol, verify: VerifySettings) -> str:
    """What grades a problem: the recipe's grader for the set or for the problem's source; a published benchmark's own
    unless the recipe names the benchmark."""
    if choice.benchmark is None:
        name = verify.grader_of(choice.name, verify.grader_of(problem.source, problem.grader))
    else:
        name = verify.grader.get(choice.name, problem.grader) if isinstance(verify.grader, dict) else problem.grader
    return protocol.grader if name == "math" else name
