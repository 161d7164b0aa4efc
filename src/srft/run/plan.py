"""Before any expensive work: read the data and check everything that can be wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from transformers import PretrainedConfig

from srft.data.fidelity import template_faults
from srft.data.load import load_data
from srft.data.make_template import make_template
from srft.data.problem import Problem
from srft.data.template import Template
from srft.data.tokenize import Counts, Prompt, TokenizedProblems, check_tokenizer, tokenize_problems
from srft.errors import SrftError
from srft.evaluation.task import EvaluationTask, make_tasks
from srft.policy.load import check_quantization, load_config, load_tokenizer, pad_token_id
from srft.policy.placement import pick_device
from srft.recipe.schema import Recipe
from srft.rollout.prompting import Prompting, PromptingContext, strategies
from srft.run.checks import run_checks, with_good_answers, with_graders
from srft.training.best import check_best
from srft.training.preference import check_pairs
from srft.training.warnings import TrainingWarning, template_warnings
from srft.verify.verifier import Verifier


@dataclass(frozen=True)
class Plan:
    """A recipe's resolved parts, checked, without the model's weights.

    Args:
        prompts: to train on; `counts` of them and of what was cut or dropped.
        problems: all that were read and whose answers grade, with and without a demonstration that fits.
        evaluations: the benchmarks.
        dropped_answers: problems left out because their answer does not grade as equal to itself.
        dropped_prompts: prompts left out because they have no demonstration, or none within the limit.
        checks: how demonstrations and the evaluations' answers grade, a line each.
        warnings: of what no step's metrics can show.
    """

    recipe: Recipe
    config: PretrainedConfig
    tokenizer: Any
    problems: list[Problem]
    prompts: list[Prompt]
    counts: Counts
    evaluations: list[EvaluationTask]
    dropped_answers: int
    dropped_prompts: int
    checks: Sequence[str] = ()
    warnings: Sequence[TrainingWarning] = ()

    @property
    def steps(self) -> int:
        """Of the stage."""
        training = self.recipe.training
        if training.steps is not None:
            return training.steps
        return math.ceil((training.epochs or 0) * len(self.prompts) / training.prompts_per_step)

    @property
    def without_demonstration(self) -> int:
        """Prompts whose rollouts alone are learnt from, where others have a demonstration too."""
        return sum(not p.demonstrations for p in self.prompts) if self.recipe.reads_demonstrations else 0

    @cached_property
    def template(self) -> Template:
        """Of the prompts."""
        return make_template(self.recipe.data)

    @cached_property
    def prompting(self) -> Prompting:
        """What the policy is asked for a prompt's group."""
        options, data = self.recipe.rollout.prompting, self.recipe.data
        context = PromptingContext(
            self.problems,
            self.tokenizer,
            self.template,
            max_prompt_length=data.max_prompt_length,
            max_response_length=self.recipe.rollout.max_response_length,
            steps=self.steps,
            seed=self.recipe.training.seed,
        )
        return strategies()[options.strategy](options, context)

    @property
    def longest_sequence(self) -> int:
        """Tokens that a prompt, what is added to it, and a response may take together."""
        longest = [task.params.max_response_length for task in self.evaluations]
        response = max([self.recipe.rollout.max_response_length, *longest])
        return self.recipe.data.max_prompt_length + self.prompting.extra_tokens + response

    @property
    def pad_token_id(self) -> int:
        """What fills a batch."""
        return pad_token_id(self.tokenizer)


def make_plan(recipe: Recipe, verifier: Verifier, processes: int = 1) -> Plan:
    """Load what a run (or one of its stages) reads and check it.

    Raises:
        SrftError: for anything that would make the run fail or mean something else than the recipe says.
    """
    data, training = recipe.data, recipe.training
    recipe.rollout.resolve(recipe.model)
    _check_split(recipe, processes)
    check_quantization(recipe.model, pick_device(training.device))
    config = load_config(recipe.model)
    tokenizer = load_tokenizer(recipe.model)
    check_tokenizer(tokenizer, f"model.path: {recipe.model.path}")
    problems = with_graders(load_data(data, training.seed), recipe)
    _check_prompts(problems, recipe)
    kept = with_good_answers(problems, recipe, verifier)
    read = tokenized(recipe, tokenizer, kept)
    prompts = usable_prompts(read.prompts, recipe, recipe.reads_demonstrations)
    if "preferences" in recipe.needs and data.selection is None:
        check_pairs(prompts, f"data.path: {data.origin}")
    evaluations = _evaluations(recipe, tokenizer)
    plan = Plan(
        recipe,
        config,
        tokenizer,
        problems=kept,
        prompts=prompts,
        counts=read.counts,
        evaluations=evaluations,
        dropped_answers=len(problems) - len(kept),
        dropped_prompts=len(read.prompts) - len(prompts),
        checks=run_checks(recipe, tokenizer, read.prompts, evaluations, verifier),
        warnings=template_warnings(template_faults(read.prompts, make_template(data), tokenizer)),
    )
    _check_window(config, plan.longest_sequence)
    check_best(recipe.training.best, plan.evaluations)
    return plan


def with_problems(plan: Plan, problems: list[Problem]) -> Plan:
    """The plan on other problems: those of a selection."""
    read = tokenized(plan.recipe, plan.tokenizer, problems)
    prompts = usable_prompts(read.prompts, plan.recipe, demonstrations=True)
    dropped = len(read.prompts) - len(prompts)
    return replace(plan, prompts=prompts, counts=read.counts, dropped_prompts=dropped)


def _evaluations(recipe: Recipe, tokenizer: Any) -> list[EvaluationTask]:
    return make_tasks(
        recipe.evaluation,
        tokenizer,
        verify=recipe.verify,
        prompts=recipe.data,
        max_response_length=recipe.rollout.max_response_length,
        max_prompt_length=recipe.data.max_prompt_length,
        seed=recipe.training.seed,
        held_out_loss="demonstrations" in recipe.needs,
    )


def tokenized(recipe: Recipe, tokenizer: Any, problems: list[Problem]) -> TokenizedProblems:
    """Problems as the recipe's template and limits make them."""
    return tokenize_problems(
        problems,
        tokenizer,
        template=make_template(recipe.data),
        max_prompt_length=recipe.data.max_prompt_length,
        max_response_length=recipe.rollout.max_response_length,
        long_demonstrations=recipe.data.long_demonstrations,
    )


def usable_prompts(prompts: list[Prompt], recipe: Recipe, demonstrations: bool) -> list[Prompt]:
    """All prompts; of a method that learns from demonstrations alone those that have one.

    Raises:
        SrftError: demonstrations are read and there is none.
    """
    if not demonstrations:
        return prompts
    usable = [p for p in prompts if p.demonstrations]
    if not usable and any(p.problem.demonstrations for p in prompts):
        raise SrftError(
            f"every demonstration is longer than {recipe.rollout.max_response_length} tokens",
            where=f"data.path: {recipe.data.origin}",
            fix="Raise rollout.max_response_length or set data.long_demonstrations: truncate.",
        )
    if not usable:
        raise SrftError(
            f"none of {len(prompts)} problems has a demonstration, and '{recipe.method.name}' learns from them",
            where=prompts[0].problem.where,
            fix="Name the column that holds them (data.columns.demonstration), or use a method without (grpo).",
        )
    return prompts if "rollouts" in recipe.needs else usable


def _check_split(recipe: Recipe, processes: int) -> None:
    prompts, updates = recipe.training.prompts_per_step, recipe.optim.updates_per_batch
    if prompts % updates or prompts // updates < processes:
        raise SrftError(
            f"{prompts} prompts cannot be shared by {updates} updates of {processes} processes",
            where="training.prompts_per_step",
            fix=f"Make it a multiple of optim.updates_per_batch, and at least {updates * processes}.",
        )
    if "preferences" in recipe.needs and prompts % processes:
        raise SrftError(
            f"{prompts} pairs a step cannot be shared evenly by {processes} processes, as TRL shares them",
            where="training.prompts_per_step",
            fix=f"Make it a multiple of {processes}.",
        )


def _check_window(config: PretrainedConfig, needed: int) -> None:
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    if window and needed > window:
        raise SrftError(
            f"a prompt and response may take {needed} tokens, the model's window holds {window}",
            where="rollout.max_response_length",
            fix="Lower it or data.max_prompt_length, or widen model.config.max_position_embeddings.",
        )


def _check_prompts(problems: list[Problem], recipe: Recipe) -> None:
    """Raises SrftError where plain text is to be answered, or compared in pairs."""
    plain = [p.where for p in problems if not p.prompt]
    if plain and (recipe.needs & {"rollouts", "preferences"} or recipe.data.selection is not None):
        raise SrftError(
            f"{len(plain)} rows are plain `text` without a prompt, and '{recipe.method.name}' needs one",
            where=plain[0],
            fix="Learn from text by a supervised method (sft, dft, psft, …), or name the prompt's column: "
            "data.columns.prompt.",
        )
