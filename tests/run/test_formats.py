"""Every format trains every method that docs/data.md says, and no other: its table is what is run here."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from srft import SrftError, load_recipe, train
from tests.helpers import ROOT, blocks

CHANGES = [
    "training.steps=1", "training.prompts_per_step=2", "rollout.n=2", "rollout.max_response_length=48",
    "training.device=cpu", "evaluation.sets={}", "optim.updates_per_batch=1", "verify.workers=1",
    "logging.samples_every=0",
]  # fmt: skip
SUMS = [(2, 3), (4, 5)]
Row = dict[str, Any]


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


# A row of each format, from a question, its solution and its answer.
ROWS: dict[str, Callable[[str, str, str], Row]] = {
    "TRL: `prompt`, `completion`": lambda q, s, a: {"prompt": q, "completion": s},
    "TRL: `prompt`, `completion` as messages": lambda q, s, a: {"prompt": [user(q)], "completion": [assistant(s)]},
    "TRL: `messages`": lambda q, s, a: {"messages": [user(q), assistant(s)]},
    "TRL: `text`": lambda q, s, a: {"text": f"{q} {s}"},
    "TRL: `prompt`, `chosen`, `rejected`": lambda q, s, a: {"prompt": q, "chosen": s, "rejected": "I do not know."},
    "Alpaca": lambda q, s, a: {"instruction": "Add.", "input": q, "output": s},
    "ShareGPT": lambda q, s, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": s}]},
    "verl, LUFFY": lambda q, s, a: {
        "prompt": [user(q)], "target": [assistant(s)], "reward_model": {"ground_truth": a}, "extra_info": {"index": 1},
    },
    "GSM8K": lambda q, s, a: {"question": q, "answer": f"{q}\n#### {a}"},
    "own columns": lambda q, s, a: {"frage": q, "weg": s, "gold": a},
    "prompts with answers alone": lambda q, s, a: {"problem": q, "answer": a},
    "prompts, some with a demonstration": lambda q, s, a: {"problem": q, "solution": s * (a == "5"), "answer": a},
}  # fmt: skip


def table() -> list[dict[str, str]]:
    """The rows of the document's table of formats, by column."""
    lines = re.findall(r"^\|.*\|$", (ROOT / "docs/data.md").read_text(), re.MULTILINE)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    begin = next(i for i, row in enumerate(cells) if row[0] == "format")
    return [dict(zip(cells[begin], row, strict=True)) for row in cells[begin + 2 : begin + 2 + len(ROWS)]]


CELLS = [(row["format"], row["file in the test"], name, row[name]) for row in table() for name in list(row)[2:]]


def save(folder: Path, kind: str, rows: list[Row]) -> Any:
    """What `data.path` names, or the rows as they are given in Python."""
    match kind:
        case "list of dicts":
            return rows
        case "`datasets.Dataset`":
            return Dataset.from_list(rows)
        case "`save_to_disk`, one split":
            Dataset.from_list(rows).save_to_disk(folder / "data")
            return f"{folder}/data"
        case "`save_to_disk`, `DatasetDict`":
            DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(rows[:1])).save_to_disk(folder / "data")
            return f"{folder}/data"
    path = folder / f"data{kind.strip('`')}"
    if ".parquet" in kind:
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ".json`" in kind:
        path.write_text(json.dumps(rows))
    elif ".jsonl" in kind:
        with pa.output_stream(str(path), compression="detect") as stream:
            stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if ".tsv" in kind else ",")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def test_the_table_is_whole() -> None:
    assert [row["format"] for row in table()] == list(ROWS)
    assert {said for *_, said in CELLS} == {"yes", "no"}
    assert list(table()[0])[2:] == ["sft", "srft", "grpo", "dpo"]


@pytest.mark.parametrize(("format", "kind", "method", "said"), CELLS)
def test_a_cell_of_the_table(tmp_path: Path, format: str, kind: str, method: str, said: str) -> None:
    rows = [ROWS[format](f"{x} + {y}?", f"It is \\boxed{{{x + y}}}.", str(x + y)) for x, y in SUMS]
    data = save(tmp_path, kind, rows)
    columns = "{prompt: frage, answer: gold, demonstration: weg}" if format == "own columns" else "{}"
    prompts = 1 if (format, method) == ("prompts, some with a demonstration", "sft") else 2
    changes = [f"method.name={method}", *CHANGES, f"data.columns={columns}", f"training.prompts_per_step={prompts}"]
    changes += ["data.selection=null"] * (method == "dpo")  # the data's own pairs, not samples of the policy
    if isinstance(data, str):
        changes.append(f"data.path={data}")
    given = None if isinstance(data, str) else data
    if said == "no":
        with pytest.raises(SrftError) as error:
            train(load_recipe("quickstart", changes), tmp_path / "run", data=given)
        assert error.value.fix
        assert not (tmp_path / "run/recipe.yaml").exists()
    else:
        run = train(load_recipe("quickstart", changes), tmp_path / "run", data=given)
        (metrics,) = run.metrics
        assert metrics["tokens"] > 0 if method != "dpo" else "loss/dpo" in metrics


def test_the_documents_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("docs/data.md")
    exec(code, {})
    assert len((tmp_path / "runs/rows/data.jsonl").read_text().splitlines()) == 2
