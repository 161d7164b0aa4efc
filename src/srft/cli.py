"""The command line: train, look before training, list recipes and methods."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from srft.errors import SrftError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Post-training for reasoning models: supervised and reinforcement fine-tuning in one stage.",
)
console = Console(soft_wrap=not sys.stdout.isatty())
errors = Console(stderr=True, soft_wrap=True)


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A packaged recipe's name or a YAML file.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, as many as you like.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/<recipe>-<time> if left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; train nothing.")] = False,
) -> None:
    """Train as a recipe says: `srft train quickstart optim.lr=2e-6 training.steps=2 --out DIR`."""
    _quiet()
    from srft.recipe import load_recipe
    from srft.training import train as run

    changes = list(overrides or [])
    if resume and recipe and "=" in recipe:  # `srft train --resume --out DIR training.steps=80`
        changes, recipe = [recipe, *changes], None
    source: str | Path | None = recipe or (out / "recipe.yaml" if resume and out else None)
    if source is None:
        raise SrftError("no recipe given", where="srft train", fix="Name one: `srft recipes` lists them.")
    chosen = load_recipe(source, changes)
    if dry_run:
        _show_plan(chosen, out)
        return
    finished = run(chosen, out, resume=resume, console=console).finished
    if not finished:
        raise typer.Exit(130)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this one.")] = None,
    copy: Annotated[Path | None, typer.Option(help="Copy it to this file, to make it yours.")] = None,
) -> None:
    """List the packaged recipes; show one, or copy it to a file of your own."""
    from srft.recipe import list_recipes, recipe_text

    if name is None:
        table = Table(box=None, pad_edge=False)
        table.add_column("recipe")
        table.add_column("what it is")
        for key, summary in list_recipes().items():
            table.add_row(key, summary)
        console.print(table)
    elif copy is None:
        console.print(Syntax(recipe_text(name), "yaml", background_color="default"))
    else:
        if copy.exists():
            raise SrftError("it exists already", where=str(copy), fix="Name another file.")
        copy.write_text(recipe_text(name))
        console.print(f"{copy}: edit it, then `srft train {copy}`")


@app.command()
def methods() -> None:
    """List the methods: what each is, what it needs, its options with their defaults."""
    from srft.objective import methods as registered

    for name, method in sorted(registered().items()):
        defaults = {option: default for option, (_, default) in method.options.items()}
        console.print(f"[bold]{name}[/bold]  {escape(method.summary)}")
        console.print(f"  needs    {', '.join(sorted(method.needs(defaults)))}")
        console.print(f"  options  {escape(', '.join(f'{k}={v}' for k, v in defaults.items()))}")
        if method.presets:
            console.print(f"  presets  {', '.join(method.presets)}")


@app.command(context_settings={"ignore_unknown_options": True})  # an answer may begin with a minus
def grade(
    gold: Annotated[str | None, typer.Argument(help="The right answer.")] = None,
    candidate: Annotated[str | None, typer.Argument(help="An answer, or a response with \\boxed{…} in it.")] = None,
    file: Annotated[Path | None, typer.Option(help="JSON lines of gold, candidate and, if known, expected.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object a line, in the file's order.")] = False,
    grader: Annotated[str, typer.Option(help="math, oat, choice, exact or format.")] = "math",
    function: Annotated[str | None, typer.Option(help="path/to/file.py:name, a grader of your own.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as cores if left out.")] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds for one answer.")] = 10.0,
) -> None:
    """Grade an answer: `srft grade '\\frac{1}{2}' 0.5`. Or a file of them, with a table of verdicts."""
    from srft.verify import report

    cases = report.cases(gold, candidate, file)
    graded = report.grade_cases(cases, grader, workers, timeout, function)
    if as_json:
        for case in graded:
            print(case.to_json(), flush=True)
    elif file is None:
        console.print(graded[0].verdict)
    else:
        console.print(report.table(graded))
        for line in report.disagreements(graded):
            console.print(escape(line), highlight=False)


def _show_plan(recipe: Any, out: Path | None) -> None:
    from srft.training.plan import check_size, estimate, gib, make_plan
    from srft.verify import Verifier

    with Verifier(recipe.verify.workers, recipe.verify.timeout, function=recipe.verify.function) as verifier:
        plan = make_plan(recipe, verifier)
        size = estimate(plan)
        first = plan.prompts[0]
        console.print(Syntax(recipe.to_yaml(), "yaml", background_color="default"))
        options = json.dumps(recipe.method_options)
        console.print(f"method {recipe.method.name}: {escape(options)}")
        counts = plan.counts
        console.print(
            f"data: {counts.problems} problems, {counts.demonstrations} demonstrations "
            f"({counts.truncated} truncated, {counts.dropped} dropped as too long), "
            f"{plan.dropped_prompts} prompts left out for it, {plan.dropped_answers} for their answer; "
            f"{len(plan.prompts)} to train on"
        )
        for name, prompts in plan.evaluations.items():
            console.print(f"evaluation {name}: {len(prompts)} problems × {recipe.evaluation.samples} samples")
        console.rule("a prompt")
        console.print(escape(plan.tokenizer.decode(first.ids)), markup=False, highlight=False)
        if first.demonstrations:
            console.rule("its demonstration")
            text = plan.tokenizer.decode(first.demonstrations[0])
            console.print(text if len(text) < 4000 else text[:4000] + " …", markup=False, highlight=False)
        console.rule("estimate")
        console.print(f"{size.parameters / 1e6:.1f} M parameters, {size.trainable / 1e6:.1f} M of them trained")
        parts = ", ".join(f"{part} {gib(amount)}" for part, amount in size.memory.items() if amount)
        console.print(f"memory per process about {gib(size.total_memory)}: {parts}")
        console.print(f"checkpoints up to {gib(size.disk)}")
        console.print(f"{plan.steps} steps, about {size.seconds / 60:.1f} minutes on this machine (a rough guide)")
        try:
            check_size(size, out or Path("runs"))
        except SrftError as error:
            console.print(f"[yellow]Would not start here:[/yellow] {escape(str(error))}")


def _quiet() -> None:
    """Libraries' own progress bars and warnings stay out of the live display, unless asked for."""
    import logging
    import warnings

    if not os.environ.get("SRFT_DEBUG"):
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is first imported
    from transformers.utils import logging as transformers_logging

    if os.environ.get("SRFT_DEBUG"):
        return
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def main() -> None:
    """Entry point: an error of the user's is told in two lines, any other keeps its traceback."""
    try:
        app()
    except SrftError as error:
        errors.print(f"[red bold]Error[/red bold] {escape(str(error))}", highlight=False)
        if os.environ.get("SRFT_DEBUG"):
            raise
        sys.exit(2)
