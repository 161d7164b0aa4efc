"""Whether the answers that a run learns from and is measured by can be graded: told, or refused, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from srft.data.problem import Problem
from srft.data.template import TEMPLATES, as_messages
from srft.data.tokenize import Prompt
from srft.errors import SrftError, did_you_mean
from srft.evaluation.task import EvaluationTask
from srft.recipe.schema import Recipe
from srft.verify.check import check_answers, check_demonstrations, listed, spread, unasked_box
from srft.verify.grading import needs_answer
from srft.verify.verifier import BadAnswer, Verifier


def with_graders(problems: list[Problem], recipe: Recipe) -> list[Problem]:
    """The problems, each with the grader that the recipe names for it.

    Raises:
        SrftError: it names a grader for a source that neither data nor evaluations have.
    """
    verify, evaluation = recipe.verify, recipe.evaluation
    if isinstance(verify.grader, dict):
        benchmarks = {name.partition(":")[0] for name in evaluation.benchmarks}
        names = {p.source for p in problems if p.source} | set(evaluation.sets) | benchmarks
        if unknown := [name for name in verify.grader if name not in names]:
            raise SrftError(
                f"neither a `data_source` of the data nor an evaluation is called '{unknown[0]}'",
                where="verify.grader",
                fix=did_you_mean(unknown[0], names),
            )
    return [replace(p, grader=verify.grader_of(p.source, p.grader)) for p in problems]


def with_good_answers(problems: list[Problem], recipe: Recipe, verifier: Verifier) -> list[Problem]:
    """The problems without those whose answer does not grade as equal to itself, where the grader's rewards count.

    Raises:
        SrftError: there are such, and the recipe does not drop them.
    """
    if not _rewards_count(recipe) or verifier.grader_weight is None:
        return problems
    bad = [BadAnswer(p, "it is empty") for p in problems if not p.answer and needs_answer(p)]
    bad += verifier.self_check([p for p in problems if p.answer][: recipe.verify.check_answers])
    if not bad:
        return problems
    if recipe.data.bad_answers == "error":
        raise SrftError(
            f"{len(bad)} answers do not grade as equal to themselves: {listed(bad[:5])}",
            where=f"data.path: {recipe.data.origin}",
            fix="Correct those answers, leave them out with data.bad_answers: drop, or score by what needs none: "
            "verify.grader: format, or verify.function.",
        )
    places = {id(b.problem) for b in bad}
    return [p for p in problems if id(p) not in places]


def run_checks(
    recipe: Recipe,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    evaluations: Sequence[EvaluationTask],
    verifier: Verifier,
) -> list[str]:
    """How demonstrations and the evaluations' answers grade, a line each; each reward function is called once. And how
    many system messages of the data give way to the template's.

    Raises:
        SrftError: rewards count and no demonstration is right; a set has no answers; a function fails.
    """
    most, where = recipe.verify.check_answers, f"data.path: {recipe.data.origin}"
    shown = spread([p for p in prompts if p.demonstrations], most)
    items = [
        (p.problem, p.opening + tokenizer.decode(p.demonstrations[0].token_ids, skip_special_tokens=True))
        for p in shown
    ]
    cut = sum(p.demonstrations[0].truncated for p in shown)
    if _rewards_count(recipe) or any(task.groups for task in evaluations):
        verifier.check_functions(items[:4] or [(p.problem, p.opening) for p in prompts[:4]])
    must = _rewards_count(recipe) and recipe.reads_demonstrations
    instruction = tokenizer.decode(prompts[0].token_ids)
    demonstrations = check_demonstrations(verifier, items, cut, instruction, where, must)
    lines = [demonstrations.line] if demonstrations else []
    unread = demonstrations is None and any(p.demonstrations for p in prompts)
    if _rewards_count(recipe) and not unread and (demonstrations is None or demonstrations.is_poor):
        lines.append(unasked_box(verifier, [p.problem for p in prompts], instruction))
    for task in evaluations:
        if task.groups and task.grader != "ifeval":
            check = check_answers(verifier, task.name, task.problems, task.extract, most)
            lines += [check.line] if check else []
    lines.append(_replaced_system(recipe, prompts))
    return [line for line in lines if line]


def _replaced_system(recipe: Recipe, prompts: Sequence[Prompt]) -> str:
    template = TEMPLATES.get(recipe.data.template)
    if recipe.data.system is not None or template is None or template.system is None:
        return ""
    count = sum(as_messages(p.problem.prompt)[0]["role"] == "system" for p in prompts)
    return (
        f"{count} of {len(prompts)} prompts have a system message of their own, which gives way to that of the "
        f"template '{recipe.data.template}'; data.template=chat keeps it"
    ) * bool(count)


def _rewards_count(recipe: Recipe) -> bool:
    """Whether rewards play a part in what is trained."""
    return "rollouts" in recipe.needs or recipe.data.selection is not None
