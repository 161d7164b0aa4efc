"""`srft eval`, `srft contamination`, `srft alignment-tax` and `srft judge`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from srft.cli.app import Command, console, quiet
from srft.errors import SrftError

# What `srft eval` took as options before they were keys of its recipe.
FORMER_OPTIONS = {
    "--samples": "sampling.n",
    "--temperature": "sampling.temperature",
    "--top-p": "sampling.top_p",
    "--max-length": "sampling.max_response_length",
    "--limit": "limit",
    "--template": "template",
    "--extract": "extract",
    "--grader": "grader",
    "--engine": "engine",
    "--max-batch": "max_batch",
    "--precision": "precision",
    "--statistics": "statistics",
    "--no-statistics": "statistics",
    "--config": "model.config",
    "--revision": "model.revision",
    "--seed": "seed",
}


class EvalCommand(Command):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer's; an option that has become a key is told as one.

        Raises:
            SrftError: naming the key.
        """
        for i, word in enumerate(args):
            option, equals, value = word.partition("=")
            if key := FORMER_OPTIONS.get(option):
                given = value if equals else next(iter(args[i + 1 :]), "VALUE")
                if key == "statistics":
                    given = "false" if option.startswith("--no-") else "true"
                change = f"{key}.{given}" if key == "model.config" else f"{key}={given}"
                raise SrftError(f"{option} is the key {key}", where="srft eval", fix=f"Write {change} without dashes.")
        return super().parse_args(ctx, args)


def evaluate(
    model: Annotated[str, typer.Argument(help="Hub id, folder, GGUF file, or srft:model.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(help="key=value, e.g. sampling.temperature=0.6 limit=50 engine=vllm; docs/evaluation.md."),
    ] = None,
    benchmarks: Annotated[
        str | None, typer.Option(help="NAME, NAME:200x4 or a file, with commas; srft, psft: all of theirs.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="srft (if left out) or psft; key=value changes it.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with benchmark files; what it lacks: the hub.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results; runs/eval-MODEL-PROTOCOL if left out.")] = None,
    against: Annotated[str, typer.Option(help="srft-table2, psft-table1, … or another --out, with commas.")] = "",
    training_data: Annotated[str | None, typer.Option(help="Report its overlap with the benchmarks.")] = None,
    function: Annotated[str | None, typer.Option(help="path/to/file.py:name, scores in place of the grader.")] = None,
) -> None:
    """Evaluate a model by the papers' protocols; the same command again continues after a kill."""
    quiet()
    from srft.evaluation.run import evaluate as run
    from srft.recipe.load import load_evaluation

    options = {"benchmarks": benchmarks, "protocol": protocol, "data_dir": data_dir and str(data_dir)}
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if function is not None:
        given["verify"] = {"function": function}
    recipe = load_evaluation(model, changes or [], **given)
    run(recipe, out=out, against=against, training_data=training_data, console=console())


def contamination(
    training: Annotated[str, typer.Argument(help="A training set: file, hub id or srft:….")],
    benchmarks: Annotated[str, typer.Option(help="As for `srft eval`.")],
    data_dir: Annotated[Path | None, typer.Option(help="As for `srft eval`.")] = None,
    n: Annotated[int, typer.Option(help="Words of an n-gram.")] = 13,
    split: Annotated[str, typer.Option(help="Of a training set on the hub.")] = "train",
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """Search training prompts for benchmark problems, by word n-grams."""
    quiet()
    from srft.evaluation.contamination import contamination as overlap
    from srft.evaluation.contamination import show

    overlaps = overlap(training, benchmarks, split=split, data_dir=data_dir, n=n)
    if as_json:
        print(json.dumps({name: one.to_json() for name, one in overlaps.items()}))
    else:
        show(console(), overlaps)


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
    arguments: dict[str, Any] = {**locals(), "tasks": tasks.split(",")}
    quiet()
    from srft.evaluation.external.tax import alignment_tax as run

    run(**arguments, console=console())


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
    arguments: dict[str, Any] = dict(locals())
    quiet()
    from srft.evaluation.external.alignment import judge as run
    from srft.evaluation.external.judge import Endpoint

    url, name, key = (arguments.pop(word) for word in ("judge_url", "judge_model", "key_variable"))
    run(**arguments, endpoint=Endpoint(url, name, key), console=console())
