"""Everything that a user may get wrong is a clear error before training starts; nothing is written or lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config

from srft import SrftError, load_recipe, train
from srft.data import resolve_path

GOOD = {"prompt": "2 + 3?", "completion": "\\boxed{5}", "answer": "5"}


def rows(tmp_path: Path, *items: Any) -> str:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return f"data.path={path}"


def failure(tmp_path: Path, *overrides: str) -> str:
    out = tmp_path / "run"
    with pytest.raises(SrftError) as error:
        train(load_recipe("quickstart", ["training.steps=1", "training.device=cpu", *overrides]), out)
    assert not (out / "metrics.jsonl").exists()
    assert error.value.fix
    return str(error.value)


@pytest.mark.parametrize(
    ("items", "overrides", "expected"),
    [
        (
            [{"prompt": "q", "answer": "5"}],
            [],
            "data.jsonl:1: none of 1 problems has a demonstration, and 'srft' learns",
        ),
        ([{"text": "2 + 3 = 5"}], [], "data.jsonl:1: 1 rows are plain `text` without a prompt, and 'srft' needs one"),
        ([GOOD, {**GOOD, "answer": "\\notacommand{"}], [], "do not grade as equal to themselves"),
        ([GOOD, {"prompt": "2 + 3?", "answer": ""}], [], "data.jsonl:2: ''"),
        ([{**GOOD, "prompt": "1 + " * 300}], [], "longer than 96 tokens"),
        (
            [{**GOOD, "completion": "1 " * 500}],
            ["data.long_demonstrations=drop"],
            "every demonstration is longer than 160",
        ),
        ([{"promt": "q"}], [], "no prompt column"),
    ],
)
def test_data(tmp_path: Path, items: list, overrides: list[str], expected: str) -> None:
    assert expected in failure(tmp_path, rows(tmp_path, *items), *overrides)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.path=absent.jsonl", "absent.jsonl: no such file"),
        ("model.path=/no/such/model", "model.path: /no/such/model"),
        ("model.path=absent.gguf", "no such file"),
        ("rollout.max_response_length=600", "the model's window holds 512"),
        ("optim.updates_per_batch=3", "training.prompts_per_step"),
        ("evaluation.sets.more.path=absent.jsonl", "absent.jsonl"),
        ("model.config.rope_thetas=4", "model.config.rope_thetas"),
    ],
)
def test_values(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in failure(tmp_path, override)


def test_a_tokenizer_without_eos(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_path("srft:model"), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["eos_token"] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert "no EOS token" in failure(tmp_path, f"model.path={folder}")


def test_too_little_memory(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_path("srft:model"), folder)
    Qwen2Config(vocab_size=400, hidden_size=65536, intermediate_size=262144, num_hidden_layers=200).save_pretrained(
        folder
    )
    assert "the run needs about" in failure(tmp_path, f"model.path={folder}")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "full"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_too_little_disk(tmp_path: Path, full_disk: Path) -> None:
    with pytest.raises(SrftError, match="checkpoints take up to"):
        train(load_recipe("quickstart", ["training.steps=1", "training.device=cpu"]), full_disk / "run")


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text("an older run")
    assert "it already holds a run" in failure(tmp_path)
    assert (tmp_path / "run/recipe.yaml").read_text() == "an older run"
    with pytest.raises(SrftError, match="no run to continue"):
        train(out=tmp_path / "elsewhere", resume=True)


def test_drop_leaves_bad_answers_out(tmp_path: Path) -> None:
    data = rows(tmp_path, GOOD, {"prompt": "2 + 3?", "answer": ""})
    changes = ["training.steps=1", "training.device=cpu", "training.prompts_per_step=1", "evaluation.sets={}"]
    run = train(load_recipe("quickstart", [data, "data.bad_answers=drop", *changes]), tmp_path / "run")
    assert run.finished
