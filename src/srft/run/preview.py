"""What `--dry-run` shows: the plan of a run before it."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from srft.console import safe_console
from srft.errors import SrftError
from srft.recipe.schema import Recipe
from srft.run.estimate import check_size, estimate
from srft.run.plan import Plan, make_plan
from srft.run.report import show_estimate
from srft.run.trackers import check_trackers
from srft.verify.verifier import Verifier


def show_plan(recipe: Recipe, out: Path | None, console: Console) -> None:
    """Print the resolved recipe and, for each stage, data counts, a prompt, and what it takes; train nothing.

    Raises:
        SrftError: for whatever would make the run fail.
    """
    console = safe_console(console)
    for note in recipe.notes:
        console.print(note)
    check_trackers(recipe)
    with Verifier.of(recipe.verify) as verifier:
        plans = [make_plan(part, verifier) for part in recipe.parts]
    console.print(Syntax(recipe.to_yaml(), "yaml", background_color="default"))
    for stage, plan in enumerate(plans, 1):
        if recipe.stages:
            console.rule(f"stage {stage} of {len(recipe.stages)}")
        _show_part(plan, out, console)


def _show_part(plan: Plan, out: Path | None, console: Console) -> None:
    """The plan of one stage, or of a recipe without any."""
    recipe, size = plan.recipe, estimate(plan)
    first = plan.prompts[0]
    options = json.dumps(recipe.method_options)
    console.print(f"method {recipe.method.name}: {options}")
    counts = plan.counts
    console.print(
        f"data: {counts.problems} problems, {counts.demonstrations} demonstrations "
        f"({counts.truncated} truncated, {counts.dropped} dropped as too long), "
        f"{plan.dropped_prompts} prompts left out as they have none, {plan.dropped_answers} for their answer; "
        f"{len(plan.prompts)} to train on"
        + f", {plan.without_demonstration} of them without a demonstration"
        * bool(plan.without_demonstration)
    )
    if chosen := recipe.data.selection:
        console.print(f"of these {chosen.n} samples each are drawn first, and '{chosen.keep}' kept to train on")
    for task in plan.evaluations:
        if task.groups:
            console.print(f"evaluation {task.name}: {len(task.groups)} problems × {task.params.n} samples")
        if task.held_out:
            console.print(f"evaluation {task.name}: the loss of the demonstrations of {len(task.held_out)} problems")
    for line in [*plan.checks, *(f"Warning: {one.name}: {one.text}. {one.advice}" for one in plan.warnings)]:
        console.print(line, highlight=False)
    console.rule("a prompt")
    console.print(plan.tokenizer.decode(first.token_ids), highlight=False)
    if "rollouts" in recipe.needs:
        for variant in plan.prompting.ask(first, recipe.sampling.n, step=1, group_id=0).variants:
            if variant.prompt.token_ids != first.token_ids:
                console.rule(f"what {variant.n} of its {recipe.sampling.n} rollouts answer")
                console.print(plan.tokenizer.decode(variant.prompt.token_ids), highlight=False)
    if first.demonstrations:
        console.rule("its demonstration")
        text = plan.tokenizer.decode(first.demonstrations[0].token_ids)
        console.print(text if len(text) < 4000 else text[:4000] + " …", highlight=False)
    console.rule("estimate")
    show_estimate(size, console)
    try:
        check_size(size, out or Path("runs"))
    except SrftError as error:
        console.print(Text.assemble(("Would not start here:", "yellow"), f" {error}"))
