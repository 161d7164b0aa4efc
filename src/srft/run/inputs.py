"""What a run reads, by its content: data, evaluations, model, files that the recipe names, packages. Where a file lies
plays no part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from srft.data.load import resolve_path
from srft.data.problem import Problem
from srft.evaluation.task import EvaluationTask
from srft.policy.load import ModelSettings, whole_model
from srft.policy.manifest import MANIFEST
from srft.recipe.merge import leaves
from srft.recipe.schema import Recipe
from srft.run.environment import ENGINES, PACKAGES
from srft.run.plan import Plan
from srft.verify.function import name_of
from srft.versions import versions

MODEL_FILES = {".safetensors", ".json", ".txt", ".model", ".jinja", ".gguf", ".py"}
THREADS = 8  # that hash a model's files
NAMED_FILES = (  # keys of files that are read as they are, with `:NAME` behind them in some
    "method.file", "verify.function", "data.template", "data.few_shot.path", "rollout.prompting.library",
)  # fmt: skip


def read_inputs(recipe: Recipe, plans: Sequence[Plan]) -> dict[str, str]:
    """What the run reads, by name: `data`, `evaluation/test`, `model/config.json`, `file/method.file`,
    `package/torch`; of a staged recipe's stages `stages.0.data`, …; and `recipe` itself. Every file of a model on this
    machine is read whole."""
    inputs = {"recipe": digest_of_text(recipe.to_yaml())}
    for number, (part, plan) in enumerate(zip(recipe.parts, plans, strict=True)):
        prefix = f"stages.{number}." if recipe.stages else ""
        read = {"data": _problems(plan.problems), **_evaluations(plan.evaluations), **_files(part)}
        read |= {f"model/{name}": content for name, content in _model(part.model, plan.config)}
        inputs |= {f"{prefix}{name}": content for name, content in read.items()}
    return inputs | {f"package/{name}": version for name, version in versions((*PACKAGES, *ENGINES)).items()}


def _problems(problems: Sequence[Problem]) -> str:
    rows = ({**asdict(problem), "where": ""} for problem in problems)
    return f"{len(problems)} problems, {_digest_of(rows)}"


def _evaluations(tasks: Iterable[EvaluationTask]) -> dict[str, str]:
    """Of each the prompts as the model reads them, what is right, and how responses are drawn."""
    return {
        f"evaluation/{task.name}": f"{len(task.prompts)} problems, "
        + _digest_of(
            [
                {"params": task.params.model_dump(), "extract": task.extract, "grader": task.grader},
                *([g.prompt.token_ids, g.prompt.problem.answer] for g in task.groups),
                *([p.token_ids, [d.token_ids for d in p.demonstrations]] for p in task.held_out),
            ]
        )
        for task in tasks
    }


def _files(recipe: Recipe) -> dict[str, str]:
    named = leaves(recipe.model_dump(mode="json"))
    paths = {key: str(named[key]) for key in NAMED_FILES if named.get(key)}
    paths |= {f"verify.rewards.{name_of(spec)}": spec for spec in recipe.verify.rewards}
    places = [
        (key, Path(place).expanduser()) for key, spec in paths.items() for place in (spec.rpartition(":")[0], spec)
    ]
    return {f"file/{key}": _digest(place) for key, place in places if place.is_file()}


def _model(settings: ModelSettings, config: Any) -> list[tuple[str, str]]:
    """The files of a model, and of what its adapters stand on; of one on the hub its commit."""
    paths = dict.fromkeys([settings.path, whole_model(settings).path])
    listed = [(path, file) for path in paths for file in _files_of_model(Path(resolve_path(path)).expanduser())]
    if not listed:
        return [(settings.path, f"commit {getattr(config, '_commit_hash', None)}")]
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(lambda one: _digest(one[1]), listed))
    base = [("base/" * (path != settings.path)) + file.name for path, file in listed]
    return list(zip(base, digests, strict=True))


def _files_of_model(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = (file for file in path.glob("*") if file.suffix in MODEL_FILES and file.name != MANIFEST)
    return sorted(file for file in files if file.is_file())


def digest_of_text(text: str) -> str:
    """As `inputs.json` has it."""
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


@cache
def _digest_at(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return f"sha256 {hashlib.file_digest(opened, 'sha256').hexdigest()[:16]}"


def _digest(file: Path) -> str:
    """Of a file; of one that several stages read once."""
    status = file.stat()
    return _digest_at(file, status.st_size, status.st_mtime_ns)


def _digest_of(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True, default=repr).encode(errors="surrogatepass"))
        digest.update(b"\n")
    return f"sha256 {digest.hexdigest()[:16]}"
