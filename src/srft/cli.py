"""The command line: train, look before training, list recipes and methods."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

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
        from srft.training.view import show_plan

        show_plan(chosen, out, console)
        return
    finished = run(chosen, out, resume=resume, console=console).finished
    if not finished:
        raise typer.Exit(130)


@app.command()
def select(
    run: Annotated[Path, typer.Argument(help="A run directory with saved rollouts.")],
    out: Annotated[Path, typer.Option(help="JSONL file to write, for `data.path`.")],
    keep: Annotated[str, typer.Option(help="correct, noise, entropy, rbf, noise+rbf or pairs.")] = "correct",
    top: Annotated[float, typer.Option(help="Share of a prompt's right samples kept by entropy or rbf.")] = 0.5,
    noise: Annotated[float, typer.Option(help="Share of wrong samples in what is kept.")] = 0.05,
    model: Annotated[str | None, typer.Option(help="Scores entropy and rbf; else the newest checkpoint.")] = None,
    seed: Annotated[int, typer.Option(help="Of the wrong samples' draw.")] = 0,
) -> None:
    """Select demonstrations, or preference pairs, from a run's own rollouts: `srft select runs/x --out mine.jsonl`."""
    _quiet()
    from srft.recipe import make_selection
    from srft.training import RunDir, selection

    how = make_selection(keep=keep, top=top, noise=noise)
    candidates = selection.saved_candidates(RunDir(run), how, model)
    chosen = selection.select(candidates, how, seed)
    selection.write(out, chosen)
    right = sum(c.right for c in candidates)
    console.print(f"{out}: {len(chosen)} of {len(candidates)} rollouts ({right} right) kept by {keep}")


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
        console.print(f"[bold]{name}[/bold]  {escape(method.summary)}")
        console.print(f"  source   {escape(method.source)}")
        console.print(f"  needs    {', '.join(sorted(method.needs({})))}")
        console.print(f"  options  {escape(', '.join(f'{k}={v}' for k, v in method.defaults().items()))}")
        if method.presets:
            console.print(f"  presets  {', '.join(method.presets)}")
        if method.settings:
            console.print(f"  sets     {', '.join(f'{k}={v}' for k, v in method.settings.items())}")


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="Hub id, folder, GGUF file, or srft:model.")],
    benchmarks: Annotated[
        str, typer.Option(help="NAME, NAME:200x4 or a file, with commas; srft, psft: all of theirs.")
    ],
    protocol: Annotated[str, typer.Option(help="srft or psft; the options below change it.")] = "srft",
    samples: Annotated[int | None, typer.Option(help="Responses of a problem.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many problems of each.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a response.")] = None,
    template: Annotated[str | None, typer.Option(help="srft, qwen-math, chat or none.")] = None,
    extract: Annotated[str | None, typer.Option(help="boxed, or last: without a box the last answer stated.")] = None,
    grader: Annotated[str | None, typer.Option(help="Of mathematical answers: math or oat.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with benchmark files; what it lacks: the hub.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results; runs/eval-MODEL-PROTOCOL if left out.")] = None,
    against: Annotated[str, typer.Option(help="srft-table2, psft-table1, … or another --out, with commas.")] = "",
    training_data: Annotated[str | None, typer.Option(help="Report its overlap with the benchmarks.")] = None,
    engine: Annotated[str, typer.Option(help="auto, transformers or vllm.")] = "auto",
    max_batch: Annotated[int | None, typer.Option(min=1, help="Responses decoded together: 64, vLLM 2048.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    statistics: Annotated[bool, typer.Option(help="Entropy, branching factor, perplexity.")] = True,
    config: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, a change to the model's config.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of the model.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Evaluate a model by the papers' protocols; the same command again continues after a kill."""
    arguments = dict(locals())
    _quiet()
    from srft.evaluation import Options
    from srft.evaluation import evaluate as run
    from srft.evaluation.settings import parse_config

    run(Options(**{**arguments, "config": parse_config(config or [])}), console)


@app.command()
def contamination(
    training: Annotated[str, typer.Argument(help="A training set: file, hub id or srft:….")],
    benchmarks: Annotated[str, typer.Option(help="As for `srft eval`.")],
    data_dir: Annotated[Path | None, typer.Option(help="As for `srft eval`.")] = None,
    n: Annotated[int, typer.Option(help="Words of an n-gram.")] = 13,
    split: Annotated[str, typer.Option(help="Of a training set on the hub.")] = "train",
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """Look for benchmark problems in training prompts, by word n-grams."""
    _quiet()
    from srft.evaluation.contamination import contamination as compare
    from srft.evaluation.contamination import show

    found = compare(training, benchmarks, split=split, data_dir=data_dir, n=n)
    if as_json:
        print(json.dumps({name: overlap.to_json() for name, overlap in found.items()}))
    else:
        show(console, found)


@app.command("alignment-tax")
def alignment_tax(
    model: Annotated[str, typer.Argument(help="Hub id, folder, GGUF file, or srft:model.")],
    tasks: Annotated[str, typer.Option(help="With commas.")] = "gsm8k,mmlu,truthfulqa,cmmlu,gpqa",
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each lm-eval task.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with their files; what it lacks: the hub.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for alignment-tax.json.")] = Path("runs/alignment-tax"),
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    chat: Annotated[bool, typer.Option(help="Through the tokenizer's chat template.")] = False,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
) -> None:
    """What training cost of general abilities: PSFT's tasks through lm-eval (extra `lm-eval`)."""
    arguments = {**locals(), "tasks": tasks.split(",")}
    _quiet()
    from srft.evaluation.tax import alignment_tax as run

    run(**arguments, console=console)


@app.command()
def judge(
    model: Annotated[str, typer.Argument(help="Hub id, folder, GGUF file, or srft:model.")],
    benchmark: Annotated[str, typer.Option(help="mt-bench, alpaca-eval or arena-hard.")],
    judge_url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint, up to /v1.")],
    judge_model: Annotated[str, typer.Option(help="As the endpoint calls it.")],
    data_dir: Annotated[Path, typer.Option(help="Folder with the published questions and baselines.")],
    out: Annotated[Path, typer.Option(help="Answers, judgements and scores.")] = Path("runs/judged"),
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    max_length: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 2048,
    max_batch: Annotated[int, typer.Option(min=1, help="Answers decoded together.")] = 64,
    engine: Annotated[str, typer.Option(help="auto, transformers or vllm.")] = "auto",
    key_variable: Annotated[str, typer.Option(help="Environment variable with the key.")] = "OPENAI_API_KEY",
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Have a judge compare or rate the model's answers; the same command again continues."""
    arguments = dict(locals())
    _quiet()
    from srft.evaluation.alignment import judge as run
    from srft.evaluation.judge import Endpoint

    url, name, key = (arguments.pop(word) for word in ("judge_url", "judge_model", "key_variable"))
    run(**arguments, endpoint=Endpoint(url, name, key), console=console)


@app.command(context_settings={"ignore_unknown_options": True})  # an answer may begin with a minus
def grade(
    gold: Annotated[str | None, typer.Argument(help="The right answer.")] = None,
    candidate: Annotated[str | None, typer.Argument(help="An answer, or a response with \\boxed{…} in it.")] = None,
    file: Annotated[Path | None, typer.Option(help="JSON lines of gold, candidate and, if known, expected.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object a line, in the file's order.")] = False,
    grader: Annotated[str, typer.Option(help="A name from docs/grading.md.")] = "math",
    function: Annotated[str | None, typer.Option(help="path/to/file.py:name, a grader of your own.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as cores if left out.")] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds for one answer.")] = 10.0,
) -> None:
    """Grade an answer: `srft grade '\\frac{1}{2}' 0.5`. Or a file of them, with a table of verdicts."""
    from srft.verify import report

    cases = report.read_cases(gold, candidate, file)
    graded = report.grade_cases(cases, grader, workers, timeout, function)
    if as_json:
        for case in graded:
            print(case.to_json(), flush=True)
    elif file is None:
        console.print(graded[0].grade.verdict.value)
    else:
        console.print(report.confusion_table(graded))
        for line in report.disagreements(graded):
            console.print(escape(line), highlight=False)


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
