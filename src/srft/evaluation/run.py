"""An evaluation from end to end: check everything, sample what is not on disk yet, score, report."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from rich.console import Console

from srft.data.load import load_problems, resolve_path
from srft.data.lock import Lock
from srft.data.tokenize import check_tokenizer
from srft.evaluation import compare, contamination, report
from srft.evaluation.benchmarks import choose
from srft.evaluation.evaluator import Evaluator, missing_groups, read_scores
from srft.evaluation.progress import Progress
from srft.evaluation.protocol import resolve_protocol
from srft.evaluation.settings import EvaluationRecipe
from srft.evaluation.task import EvaluationTask, check_window, choose_tasks, make_tasks
from srft.policy.forward import Policy
from srft.policy.load import load_config, load_model, load_tokenizer, pad_token_id
from srft.policy.placement import for_inference, pick_precision
from srft.policy.saved import model_name
from srft.processes import ending_together, first
from srft.rollout.collector import Collector
from srft.rollout.engine import make_sampler
from srft.verify.check import check_answers
from srft.verify.verifier import Verifier
from srft.versions import versions


@ending_together()
def evaluate(
    recipe: EvaluationRecipe,
    *,
    out: Path | None = None,
    against: str | Sequence[str] = "",
    training_data: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Evaluate a model; the same call on every process of a launch. Called again after a kill it continues.

    Args:
        out: folder of records and results; runs/eval-MODEL-PROTOCOL if left out.
        against: tables of the papers, or folders of other evaluations; a string has commas between them.
        training_data: a training set whose overlap with the benchmarks is reported.

    Returns:
        on the first process the results as they stand in results.json: `settings`, `versions`, `processes`,
        `benchmarks` (see `metrics.score`), `against`; on the others nothing.

    Raises:
        SrftError: before anything is sampled, for whatever is wrong with settings, data, model or machine, or where
            another process evaluates into the same folder.
    """
    if not choose_tasks(recipe):
        choose("")  # says what there is to name
    accelerator = _accelerator()
    engine, main = recipe.resolve(recipe.model), accelerator.is_main_process
    comparisons = compare.check_against(against)
    folder = out or Path("runs") / f"eval-{model_name(recipe.model.path)}-{recipe.protocol}"
    config, tokenizer = load_config(recipe.model), load_tokenizer(recipe.model)
    check_tokenizer(tokenizer, recipe.model.path)
    with closing(Lock(folder / "run.lock")) as lock, Verifier.of(recipe.verify) as verifier:
        first(accelerator, lock.take)
        with accelerator.main_process_first():
            tasks = make_tasks(recipe, tokenizer, verify=recipe.verify, seed=recipe.seed)
        check_window(tasks, config)
        facts: dict[str, dict[str, Any]] = {}
        first(accelerator, lambda: facts.update(_facts(tasks, verifier, training_data)))
        settings = _settings(recipe, engine, accelerator.device, getattr(config, "_commit_hash", None))
        missing = missing_groups(tasks, folder, accelerator, settings)
        if any(missing.values()) or any(task.held_out for task in tasks):
            progress = Progress(console if main else None, accelerator.num_processes)
            evaluator = _evaluator(recipe, engine, tasks, tokenizer, verifier, accelerator)
            try:
                scores = evaluator.run(folder, progress, missing)
            finally:
                evaluator.collector.sampler.close()
        else:
            scores = read_scores(tasks, folder, accelerator, recipe.seed)
    results: dict[str, Any] = {}
    if main:
        benchmarks = {name: scores[name] | facts[name] for name in scores}
        results = {"settings": settings, "versions": versions(), "processes": accelerator.num_processes}
        results["benchmarks"] = benchmarks
        results["against"] = [compare.compare(other, results, folder) for other in comparisons]
        report.write_results(folder, results)
        if console:
            report.show(console, results)
            console.print(f"{folder}: results.json, results.csv, results.md, a .jsonl of responses each", style="dim")
    accelerator.wait_for_everyone()
    return results


def check_gold(verifier: Verifier, task: EvaluationTask) -> int:
    """How many problems' own answers do not grade as right: no response could be.

    Raises:
        SrftError: the grader is unknown, a problem has no answer, or none would be right.
    """
    if task.grader == "ifeval" or not task.groups:
        return 0
    check = check_answers(verifier, task.name, task.problems, task.extract)
    return check.count - check.right if check else 0


def _accelerator() -> Accelerator:
    AcceleratorState._reset_state()
    # One process may wait for hours for another's last response.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=7))
    # The model is cast as a whole; the launcher's mixed precision must not change what it samples.
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[patience])


def _evaluator(
    recipe: EvaluationRecipe,
    engine: str,
    tasks: Sequence[EvaluationTask],
    tokenizer: Any,
    verifier: Verifier,
    accelerator: Accelerator,
) -> Evaluator:
    """The evaluator of the recipe's model, which is loaded here."""
    max_batch = recipe.max_batch or (64 if engine == "transformers" else 2048)
    policy = Policy(for_inference(load_model(recipe.model), recipe.precision, accelerator.device))
    sampler = make_sampler(
        recipe.model_copy(update={"max_batch": max_batch}),
        policy,
        recipe.model,
        tokenizer,
        max_model_len=max(task.longest for task in tasks),
    )
    return Evaluator(
        tasks,
        Collector(sampler, verifier.grade, tokenizer, recipe.seed, accuracy=verifier.accuracy),
        accelerator,
        seed_purpose="evaluation/{}",
        policy=policy if recipe.statistics else None,
        pad_token_id=pad_token_id(tokenizer),
        scorer=policy,
        max_batch=max_batch,
    )


def _facts(tasks: Sequence[EvaluationTask], verifier: Verifier, training_data: str | None) -> dict[str, dict[str, Any]]:
    """What is reported of each benchmark with its scores."""
    sampled = [task.problems[0] for task in tasks if task.groups]
    verifier.check_functions([(problem, f"\\boxed{{{problem.answer}}}") for problem in sampled])
    overlaps: Mapping[str, contamination.Overlap] = {}
    if training_data is not None:
        overlaps = contamination.overlap(load_problems(training_data), {t.name: t.problems for t in tasks})
    return {
        task.name: {
            "metric": task.benchmark.metric if task.benchmark else "accuracy",
            "source": task.source.to_json(),
            "bad_gold": check_gold(verifier, task),
            "max_response_length": task.params.max_response_length,
            **({"contamination": overlaps[task.name].to_json()} if task.name in overlaps else {}),
        }
        for task in tasks
    }


def _settings(recipe: EvaluationRecipe, engine: str, device: torch.device, commit: str | None) -> dict[str, Any]:
    """What decides which responses are drawn, so that a folder holds those of one setting alone.

    Args:
        commit: of the model on the hub, None for one on disk.
    """
    return {
        "model": recipe.model.path,
        "weights": commit or _fingerprint(recipe.model.path),
        "config": dict(recipe.model.config),
        "protocol": resolve_protocol(recipe, extract=recipe.verify.extract).to_json(),
        "seed": recipe.seed,
        "engine": engine,
        "precision": pick_precision(recipe.precision, device),
        "statistics": recipe.statistics,
        "function": recipe.verify.function or dict(recipe.verify.rewards) or None,
        **({} if recipe.verify.right_at is None else {"right_at": recipe.verify.right_at}),
    }


def _fingerprint(model: str) -> str:
    """Tells weights on disk from others of the same name without reading gigabytes: sizes, beginnings and ends."""
    path, digest = Path(resolve_path(model)), hashlib.sha256()
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(1 << 20))
            opened.seek(-min(size, 1 << 20), os.SEEK_END)
            digest.update(opened.read())
    return digest.hexdigest()[:16]
