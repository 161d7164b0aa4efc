"""An evaluation from end to end: check everything, sample what is not on disk yet, score, report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from rich.console import Console

from srft.data import TEMPLATES, Problem, Prompt, check_tokenizer, load_problems, resolve_path, tokenize_problems
from srft.errors import SrftError
from srft.evaluation import compare, contamination, ifeval, report
from srft.evaluation.benchmarks import Choice, choose
from srft.evaluation.load import Source, load_benchmark
from srft.evaluation.progress import Progress
from srft.evaluation.protocol import Protocol, make_protocol
from srft.evaluation.records import Record, RecordFile, open_folder
from srft.evaluation.respond import Draw, Responder, check_gold
from srft.evaluation.score import score
from srft.evaluation.settings import Options, settings_of, versions
from srft.policy import Policy, load_config, load_model, load_tokenizer, pad_token, stop_tokens
from srft.processes import first
from srft.rollout import find_engine, make_sampler
from srft.verify import Verifier

NO_LIMIT = 1 << 30  # tokens of a prompt: the window is what limits it, and that is checked with the response's


@dataclass(frozen=True)
class Task:
    """One benchmark of the evaluation, checked and tokenised."""

    choice: Choice
    prompts: Sequence[Prompt]
    source: Source
    draw: Draw

    @property
    def facts(self) -> dict[str, Any]:
        """What must be alike for its responses to go on being collected."""
        return {
            "problems": len(self.prompts), "samples": self.draw.n, "max_response_length": self.draw.max_response_length,
            "sha256": self.source.sha256,
        }  # fmt: skip


def evaluate(options: Options, console: Console | None = None) -> dict[str, Any]:
    """Evaluate a model; the same call on every process of `accelerate launch`. Called again after a kill it goes on.

    Returns:
        the results as they stand in results.json: `settings`, `benchmarks` (see `score.score`), `against`.

    Raises:
        SrftError: before anything is sampled, for whatever is wrong with options, data, model or machine.
    """
    protocol = make_protocol(
        options.protocol, samples=options.samples, temperature=options.temperature, top_p=options.top_p,
        max_response_length=options.max_length, template=options.template, extract=options.extract,
        grader=options.grader,
    )  # fmt: skip
    choices, accelerator = choose(options.benchmarks, options.limit), _accelerator()
    main, engine = accelerator.is_main_process, find_engine(options.engine, accelerator.num_processes)
    against = compare.check_against(options.against)
    folder = options.out or Path("runs") / f"eval-{Path(options.model.replace(':', '-')).name}-{protocol.name}"
    config = load_config(options.model, changes=options.config, revision=options.revision)
    tokenizer = load_tokenizer(options.model, revision=options.revision)
    check_tokenizer(tokenizer, options.model)
    with Verifier() as verifier:
        with accelerator.main_process_first():
            tasks = [_task(c, options, protocol, tokenizer, config) for c in choices]
        bad_gold = {t.choice.name: check_gold(verifier, [p.problem for p in t.prompts]) for t in tasks} if main else {}
        overlaps = _overlaps(options.training_data, tasks) if main else {}
        commit = getattr(config, "_commit_hash", None)
        settings = settings_of(options, protocol, engine, accelerator.device.type, commit)
        first(accelerator, lambda: open_folder(folder, settings, {t.choice.name: t.facts for t in tasks}))
        files = {t.choice.name: RecordFile(folder, t.choice.name, t.draw.n) for t in tasks}
        first(accelerator, lambda: [file.merge() for file in files.values()])
        left = {name: _left(file, task) for (name, file), task in zip(files.items(), tasks, strict=True)}
        accelerator.wait_for_everyone()  # all have read before any writes
        if any(left.values()):
            responder = _responder(options, config, tokenizer, verifier, accelerator, tasks, settings)
            progress = Progress(console if main else None, accelerator.num_processes)
            _sample(responder, tasks, left, files, _max_batch(options, engine), accelerator, progress)
    accelerator.wait_for_everyone()
    results: dict[str, Any] = {}
    if main:
        results = _results(settings, tasks, files, overlaps, bad_gold)
        results["against"] = [compare.compare(name, results, folder) for name in against]
        report.write_results(folder, results)
        if console:
            report.show(console, results)
            console.print(f"{folder}: results.json, results.csv, results.md, a .jsonl of responses each", style="dim")
    accelerator.wait_for_everyone()
    return results


def _accelerator() -> Accelerator:
    AcceleratorState._reset_state()
    # One process may wait for hours for another's last response.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=7))
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patience])


def _task(choice: Choice, options: Options, protocol: Protocol, tokenizer: Any, config: Any) -> Task:
    problems, source = load_benchmark(choice, data_dir=options.data_dir, seed=options.seed)
    if problems[0].grader == "ifeval":
        ifeval.check(problems)
    length = protocol.length_of(choice)
    prompts, _ = tokenize_problems(
        [replace(p, demonstrations=(), grader=protocol.grader if p.grader == "math" else p.grader) for p in problems],
        tokenizer,
        template=TEMPLATES[protocol.template],
        max_prompt_length=NO_LIMIT,
        max_response_length=length,
    )
    longest = max(len(p.ids) for p in prompts)
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    if window and longest + length > window:
        raise SrftError(
            f"{choice.name}'s longest prompt takes {longest} tokens and a response up to {length}, "
            f"the model's window holds {window}",
            where="--max-length",
            fix=f"Give --max-length {max(window - longest, 1)}, or widen --config max_position_embeddings=….",
        )
    draw = Draw(
        choice.name,
        protocol.samples_of(choice),
        protocol.temperature,
        protocol.top_p,
        length,
        options.seed,
        protocol.extract,
    )
    return Task(choice, prompts, source, draw)


def _left(file: RecordFile, task: Task) -> list[tuple[int, Prompt]]:
    done = file.read()
    return [(number, prompt) for number, prompt in enumerate(task.prompts) if number not in done]


def _responder(
    options: Options,
    config: Any,
    tokenizer: Any,
    verifier: Verifier,
    accelerator: Accelerator,
    tasks: Sequence[Task],
    settings: Mapping[str, Any],
) -> Responder:
    model = load_model(options.model, changes=options.config, revision=options.revision)
    model.to(accelerator.device, torch.float32 if settings["precision"] == "fp32" else torch.bfloat16).eval()
    pad = pad_token(tokenizer)
    sampler = make_sampler(
        settings["engine"],
        model,
        path=resolve_path(options.model),
        pad_token_id=pad,
        stop_token_ids=stop_tokens(tokenizer, model),
        max_model_len=max(len(p.ids) + t.draw.max_response_length for t in tasks for p in t.prompts),
        max_batch=_max_batch(options, settings["engine"]),
    )
    return Responder(sampler, verifier, tokenizer, Policy(model) if options.statistics else None, pad)


def _max_batch(options: Options, engine: str) -> int:
    return options.max_batch or (2048 if engine == "vllm" else 64)


def _sample(
    responder: Responder,
    tasks: Sequence[Task],
    left: Mapping[str, Sequence[tuple[int, Prompt]]],
    files: Mapping[str, RecordFile],
    max_batch: int,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    rank, ranks = accelerator.process_index, accelerator.num_processes
    with progress:
        for task in tasks:
            name, mine = task.choice.name, left[task.choice.name][rank::ranks]
            progress.begin(name, len(mine), len(task.prompts))
            step = max(max_batch // task.draw.n, 1)
            # Long prompts first: a machine too small for them says so at once, and batches are of one length.
            order = sorted(mine, key=lambda item: -len(item[1].ids))
            for start in range(0, len(order), step):
                began = time.perf_counter()
                records = responder.respond(order[start : start + step], task.draw)
                files[name].append(records, rank)
                progress.advance(len(order[start : start + step]), _tokens(records), time.perf_counter() - began)


def _tokens(records: Sequence[Record]) -> int:
    return sum(record["tokens"] for record in records)


def _overlaps(training: str | None, tasks: Sequence[Task]) -> dict[str, contamination.Overlap]:
    if training is None:
        return {}
    problems: dict[str, list[Problem]] = {t.choice.name: [p.problem for p in t.prompts] for t in tasks}
    return contamination.overlap(load_problems(training), problems)


def _results(
    settings: Mapping[str, Any],
    tasks: Sequence[Task],
    files: Mapping[str, RecordFile],
    overlaps: Mapping[str, contamination.Overlap],
    bad_gold: Mapping[str, int],
) -> dict[str, Any]:
    benchmarks = {}
    for task in tasks:
        name, benchmark = task.choice.name, task.choice.benchmark
        found = score(files[name].merge(), task.draw.seed)
        found |= {"metric": benchmark.metric if benchmark else "accuracy", "source": task.source.to_json()}
        found |= {"bad_gold": bad_gold[name], "max_response_length": task.draw.max_response_length}
        if name in overlaps:
            found["contamination"] = overlaps[name].to_json()
        benchmarks[name] = found
    return {"settings": dict(settings), "versions": versions(), "benchmarks": benchmarks}
