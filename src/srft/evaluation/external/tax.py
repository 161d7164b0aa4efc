"""Alignment tax (PSFT Table 11) through lm-eval, with the model in this process (extra `lm-eval`)."""

from __future__ import annotations

import csv
import importlib.util
import io
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from srft.data.files import ALWAYS_UNPACKED, parse_json, read_jsonl, read_text, write_json, write_rows
from srft.errors import SrftError, did_you_mean, reason
from srft.policy.load import ModelSettings, load_model, load_tokenizer
from srft.policy.placement import Precision, for_inference

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # by split


@dataclass(frozen=True)
class Tax:
    """One task of lm-eval.

    Args:
        task: lm-eval's name of the task or group.
        metric: the one that is reported, as `metric,filter`.
        file: its name in `--data-dir`; without it the hub is read.
        rows: from that file, by lm-eval task, rows by split; None where lm-eval reads the file as it is.
    """

    task: str
    metric: str
    file: str | None = None
    rows: Callable[[Path], Mapping[str, Rows]] | None = None


def _truthfulqa(file: Path) -> Mapping[str, Rows]:
    """The hub's columns from the published ones: mc1's options as lists, the true one first."""
    rows = []
    for row in parse_json(read_text(file), str(file)):
        targets = sorted(row["mc1_targets"].items(), key=lambda item: -item[1])
        choices = {"choices": [text for text, _ in targets], "labels": [label for _, label in targets]}
        rows.append({"question": row["question"], "mc1_targets": choices})
    return {"truthfulqa_mc1": {"validation": rows}}


def _gsm8k(file: Path) -> Mapping[str, Rows]:
    return {"gsm8k_cot": {"test": [row for _, row in read_jsonl(file)]}}


def _mmlu(file: Path) -> Mapping[str, Rows]:
    """csv without a head: the question, four options, the letter."""
    tasks: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for part in _csvs(file, "data/"):
        rows = [
            {"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5].strip())}
            for row in csv.reader(io.StringIO(part.text))
        ]
        subject = part.stem.removesuffix(f"_{part.split}")
        tasks.setdefault(f"mmlu_flan_n_shot_generative_{subject}", {})[part.split] = rows
    return {task: splits for task, splits in tasks.items() if {"dev", "test"} <= set(splits)}


def _cmmlu(file: Path) -> Mapping[str, Rows]:
    tasks: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for part in _csvs(file, ""):
        rows = [
            {"Question": row["Question"], "Answer": row["Answer"].strip(), **{x: row[x] for x in "ABCD"}}
            for row in csv.DictReader(io.StringIO(part.text))
        ]
        tasks.setdefault(f"cmmlu_{part.stem}", {})[part.split] = rows
    return {task: splits for task, splits in tasks.items() if {"dev", "test"} <= set(splits)}


TAXES: Mapping[str, Tax] = {
    "gsm8k": Tax("gsm8k_cot", "exact_match,flexible-extract", "gsm8k_test.jsonl", _gsm8k),
    "mmlu": Tax("mmlu_flan_n_shot_generative", "exact_match,flexible-extract", "mmlu.zip", _mmlu),
    "truthfulqa": Tax("truthfulqa_mc1", "acc,none", "truthfulqa_v1_mc_task.json", _truthfulqa),
    "cmmlu": Tax("cmmlu", "acc,none", "cmmlu.zip", _cmmlu),
    # "GPQA, CoT n-shot" in the paper does not say which of the three; the hub only, by its authors' wish
    "gpqa": Tax("gpqa_diamond_cot_n_shot", "exact_match,flexible-extract"),
}


def alignment_tax(
    model: str,
    tasks: Sequence[str] = tuple(TAXES),
    *,
    limit: int | None = None,
    data_dir: Path | None = None,
    out: Path | None = None,
    batch_size: int = 16,
    chat: bool = False,
    precision: Precision = "auto",
    console: Console | None = None,
) -> dict[str, Any]:
    """Score a model by lm-eval's own tasks.

    Args:
        limit: documents of each lm-eval task (of each subject, for MMLU and CMMLU).
        chat: put the prompts through the tokenizer's chat template.

    Returns:
        as written to `out`/alignment-tax.json: by task the score in percent, its standard error, the documents.

    Raises:
        SrftError: an unknown task, lm-eval is missing, or it cannot read a task's data.
    """
    for name in tasks:
        if name not in TAXES:
            raise SrftError(f"unknown task '{name}'", where="--tasks", fix=did_you_mean(name, TAXES))
    if importlib.util.find_spec("lm_eval") is None:
        raise SrftError("needs lm-eval", where="alignment tax", fix="pip install 'srft[lm-eval]'")
    from lm_eval.models.huggingface import HFLM

    settings = ModelSettings(path=model)
    tokenizer, loaded = load_tokenizer(settings), for_inference(load_model(settings), precision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    engine = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=batch_size)
    scores = run_tasks(engine, tasks, limit=limit, data_dir=data_dir, chat=chat)
    result = {"model": model, "lm_eval": metadata.version("lm-eval"), "limit": limit, "chat": chat, "tasks": scores}
    if out is not None:
        write_json(out / "alignment-tax.json", result)
    if console is not None:
        table = Table("task", "lm-eval task", "metric", "documents", "score", "± s.e.", box=None, pad_edge=False)
        for name, row in scores.items():
            table.add_row(
                name, row["task"], row["metric"], str(row["documents"]), f"{row['score']:.1f}", f"{row['stderr']:.1f}"
            )
        console.print(table)
    return result


def run_tasks(
    engine: Any, tasks: Sequence[str], *, limit: int | None = None, data_dir: Path | None = None, chat: bool = False
) -> dict[str, dict[str, Any]]:
    """The tasks' scores of any lm-eval model (an `lm_eval.api.model.LM`)."""
    from lm_eval import simple_evaluate

    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in tasks:
            tax, file = TAXES[name], None
            if data_dir and tax.file and (data_dir / tax.file).is_file():
                file = data_dir / tax.file
            specs = _local(tax, file, Path(folder)) if file else [tax.task]
            try:
                output: Any = simple_evaluate(
                    engine, tasks=specs, limit=limit, bootstrap_iters=0, apply_chat_template=chat
                )
            except Exception as error:  # the hub's, datasets' and lm-eval's own kinds
                raise SrftError(
                    f"lm-eval could not run {tax.task}: {reason(error)}",
                    where=name,
                    fix="Check the connection" + (f", or put {tax.file} into --data-dir." if tax.file else "."),
                ) from error
            scores[name] = _score(tax, output) | {"source": str(file) if file else "hub"}
    return scores


def _score(tax: Tax, output: Mapping[str, Any]) -> dict[str, Any]:
    """The mean over documents; a group's tasks weigh as many documents as they have."""
    metric = tax.metric.partition(",")[0]
    values = [
        float(sample[metric])
        for samples in output["samples"].values()
        for sample in samples
        if sample.get("filter", "none") == tax.metric.partition(",")[2]
    ]
    mean = sum(values) / len(values)
    stderr = (mean * (1 - mean) / max(len(values) - 1, 1)) ** 0.5
    return {
        "task": tax.task, "metric": tax.metric, "documents": len(values), "score": 100 * mean, "stderr": 100 * stderr,
    }  # fmt: skip


def _local(tax: Tax, file: Path, folder: Path) -> list[dict[str, Any]]:
    """lm-eval's tasks with their data in files of the columns that they expect.

    Raises:
        SrftError: the file is damaged, or of other columns than the published one.
    """
    assert tax.rows is not None
    specs = []
    try:
        tasks = tax.rows(file)
    except (zipfile.BadZipFile, OSError, LookupError, TypeError, ValueError, AttributeError, csv.Error) as error:
        what = f"not the published file: {reason(error)}"
        raise SrftError(what, where=str(file), fix="Fetch it anew.") from None
    for task, splits in tasks.items():
        data_files = {}
        for split, rows in splits.items():
            path = folder / f"{task}-{split}.jsonl"
            write_rows(path, rows)
            data_files[split] = str(path)
        specs.append(
            {"task": task, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": data_files}}
        )
    # Only the members of a group are taken as changes to the tasks that lm-eval knows by those names.
    return [{"group": f"{tax.task} from files", "task": specs}]


@dataclass(frozen=True)
class _Csv:
    """A csv file of a zip: its split, its name without suffix, its text."""

    split: str
    stem: str
    text: str


def _csvs(file: Path, root: str) -> list[_Csv]:
    """Each csv in `root`SPLIT/ of a zip, read without being unpacked to the disk."""
    with zipfile.ZipFile(file) as opened:
        if sum(member.file_size for member in opened.infolist()) > ALWAYS_UNPACKED:
            raise ValueError(f"it unpacks to more than {ALWAYS_UNPACKED} bytes")
        return [
            _Csv(split, Path(name).stem, opened.read(name).decode("utf-8-sig"))
            for split in ("dev", "test")
            for name in sorted(opened.namelist())
            if name.startswith(f"{root}{split}/") and name.endswith(".csv")
        ]
