"""What a run says before its first step and after its last."""

from __future__ import annotations

from collections.abc import Sequence

from srft.data.files import write_json
from srft.evaluation.contamination import overlap, warning
from srft.recipe.schema import Recipe
from srft.run.plan import Plan
from srft.training.display import Display
from srft.training.run_dir import RunDir
from srft.training.scores import change_table


def headline(plan: Plan, where: str, run_dir: RunDir, stage: str) -> str:
    """What is about to be trained, and `where`."""
    recipe, counts, lost = plan.recipe, plan.counts, ""
    rollouts = recipe.sampling.n if "rollouts" in recipe.needs else "no"
    if counts.truncated or counts.dropped or plan.dropped_answers:
        lost = (
            f"\n{counts.truncated} over-long demonstrations truncated, {counts.dropped} dropped; "
            f"{plan.dropped_answers} problems dropped for their answer"
        )
    if plan.dropped_prompts:
        lost += f"\n{plan.dropped_prompts} prompts left out, which have no demonstration"
    if plan.without_demonstration:
        lost += f"\n{plan.without_demonstration} prompts have no demonstration: their rollouts alone are learnt from"
    if recipe.data.selection is not None and any(p.rejected for p in plan.problems):
        lost += "\nthe data's own pairs are not read, as data.selection takes samples: data.selection=null reads them"
    lost += "".join(f"\n{line}" for line in plan.checks)
    return (
        f"{stage}{recipe.method.name} on {recipe.model.path}: {len(plan.prompts)} problems, {plan.steps} steps of "
        f"{recipe.training.prompts_per_step} prompts, {rollouts} rollouts each; "
        f"{where}; {run_dir.path}{lost}"
    )


def report_overlap(plans: Sequence[Plan], run_dir: RunDir, display: Display) -> None:
    """contamination.json: which problems of the evaluations stand in the training prompts; a warning if any do."""
    prompts = [p.problem for plan in plans for p in plan.prompts]
    sets = {task.name: task.problems for plan in plans for task in plan.evaluations}
    overlaps = overlap(prompts, sets)
    write_json(run_dir.path / "contamination.json", {name: o.to_json() for name, o in overlaps.items()})
    if line := warning(overlaps):
        display.say(line)


def show_end(display: Display, run_dir: RunDir, recipe: Recipe, finished: bool, again: str) -> None:
    """What came of a run, and what to do with it next.

    Args:
        again: the command that continues it.
    """
    show_warnings(display, run_dir)
    if not finished:
        display.say(f"Saved. To continue: {again}")
        return
    if evaluations := run_dir.evaluations:
        display.table(change_table(evaluations))
    display.say(f"Done: {run_dir.path}")
    if run_dir.checkpoints:
        part = recipe.parts[-1]
        evaluation = part.evaluation
        benchmarks = ",".join([*evaluation.benchmarks, *(one.path for one in evaluation.sets.values())]) or "NAME"
        length = evaluation.sampling.max_response_length or part.rollout.max_response_length
        settings = (
            f"template={evaluation.template or part.data.template} extract={evaluation.extract or part.verify.extract} "
            f"sampling.max_response_length={length}"
        )
        display.say(f"  load:     AutoModelForCausalLM.from_pretrained({str(run_dir.checkpoint)!r})")
        display.say(f"  evaluate: srft eval {run_dir.checkpoint} --benchmarks {benchmarks} {settings}")
    display.say(f"  metrics:  {run_dir.path / 'metrics.jsonl'}")


def show_warnings(display: Display, run_dir: RunDir) -> None:
    """Which warnings a run gave, in a line; nothing where it gave none."""
    given = run_dir.warnings
    if given:
        listed = ", ".join(f"{row['name']} (step {row['step']})" for row in given)
        display.say(f"{len(given)} warning{'s' * (len(given) > 1)}: {listed}; srft doctor {run_dir.path} explains")
