"""A resumed run: what may change, what begins anew, who may write, and what a lost terminal costs."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srft import Recipe, SrftError, load_recipe, train
from srft.data.lock import Lock
from srft.evaluation.run import evaluate
from srft.recipe.load import load_evaluation
from srft.recipe.walk import walk_schema
from srft.run.changes import RULES, check_changes, rule_of
from srft.training.run_dir import RunDir
from srft.training.signals import stop_on_signals
from tests.helpers import ROOT

ALONE = [
    "training.steps=1", "training.prompts_per_step=2", "training.tokens_per_micro_batch=1500", "training.device=cpu",
    "evaluation.sets={}", "logging.samples_every=0", "rollout.max_response_length=160",
]  # fmt: skip
STAGES = {"extends": "quickstart", "stages": [{"method": {"name": "sft"}}, {"method": {"name": "dft"}}]}


def sft(*changes: str) -> Recipe:
    return load_recipe("quickstart-sft", [*ALONE, *changes])


def contents(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "run.lock"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def data(folder: Path, *answers: int) -> str:
    folder.mkdir(exist_ok=True)
    rows = [{"prompt": f"{n} + 0?", "completion": f"It is \\boxed{{{n}}}.", "answer": str(n)} for n in answers]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data.path={folder}/data.jsonl"


def test_every_key_of_a_recipe_has_its_rule() -> None:
    """One that says what a change of it means; a section's stands for what is in it."""
    named = {key for rules in RULES for key in rules.keys}
    keys = [field.key for field in walk_schema() if field.type != "section"]
    assert [key for key in keys if not any(f"{key}.".startswith(f"{name}.") for name in named)] == []
    assert {key: rule_of(key) for key in ("training.steps", "data.mix", "data.template", "model.lora.rank")} == {
        "training.steps": "free", "data.mix": "read", "data.template": "asks", "model.lora.rank": "fixed",
    }  # fmt: skip


def test_changes_are_told_by_name_and_need_a_word(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("from srft import method\nfrom srft.objective import nll\n"
        "@method('nll-for-test', needs={'demonstrations'})\n"
        "def own(t):\n    return {'sft': nll(t.demo).mean()}\n")  # fmt: skip
    here = data(tmp_path / "here", 1, 2, 3)
    code = ["method.name=nll-for-test", f"method.file={tmp_path}/code.py"]
    run = train(sft(here, *code), tmp_path / "run")
    before = contents(tmp_path / "run")

    def refused(what: str, *changes: str, word: bool = False) -> None:
        with pytest.raises(SrftError, match=what):
            train(sft(here, *code, *changes), tmp_path / "run", resume=True, allow_changes=word)
        assert contents(tmp_path / "run") == before

    refused(r"not as they were in the run\n  optim.lr: 0.002 → 0.1\nLeave", "optim.lr=0.1", "training.steps=2")
    refused(r"\n  training.seed: 0 → 1", "training.seed=1")
    refused(
        r"goes on with the model that it has\n  model/model.safetensors: sha256",
        "model.path=" + other(tmp_path),
        word=True,
    )
    refused("the run is at step 1, and the recipe ends it at 0", "training.steps=0", word=True)
    with (tmp_path / "code.py").open("a") as file:
        file.write("# edited\n")
    refused("\n  file/method.file: sha256 [0-9a-f]+ → sha256")
    (tmp_path / "code.py").write_text((tmp_path / "code.py").read_text().removesuffix("# edited\n"))
    data(tmp_path / "here", 1, 2, 4)
    refused("\n  data: 3 problems, sha256 [0-9a-f]+ → 3 problems, sha256")
    data(tmp_path / "here", 1, 2, 3)
    recipe = tmp_path / "run/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("seed: 0", "seed: 7"))
    with pytest.raises(SrftError, match="\n  recipe: sha256"):  # edited by hand
        train(out=tmp_path / "run", resume=True)
    recipe.write_bytes(before["recipe.yaml"])

    moved = data(tmp_path / "moved", 1, 2, 3)  # the same rows
    again = train(sft(moved, *code, "training.steps=2", "logging.samples_every=5"), tmp_path / "run", resume=True)
    assert [row["step"] for row in again.metrics] == [1, 2]
    changed = train(
        sft(moved, *code, "training.steps=3", "training.seed=1"), tmp_path / "run", resume=True, allow_changes=True
    )
    assert [row["step"] for row in changed.metrics] == [1, 2, 3]
    kept = {file.name for file in (tmp_path / "run").glob("*-0000*")}
    assert kept == {"recipe-000001.yaml", "recipe-000002.yaml", "inputs-000001.json", "inputs-000002.json"}
    assert run.metrics[0] == changed.metrics[0]


def other(folder: Path) -> str:
    from srft.data import resolve_path

    copy = shutil.copytree(resolve_path("srft:model"), folder / "other")
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    return str(copy)


def compared(
    tmp_path: Path, before: Recipe, now: Recipe, state: dict[str, int] | None, *, word: bool = True
) -> list[str]:
    run = RunDir(tmp_path / "run")
    shutil.rmtree(run.path, ignore_errors=True)
    run.create(before.to_yaml(), {})
    run.checkpoint_at(2).mkdir(parents=True)
    plans: Any = [SimpleNamespace(steps=part.training.steps) for part in now.parts]
    run.lock.close()
    (run.path / "inputs.json").unlink()
    return check_changes(run, now, {}, plans, state, word)[:-1]  # without the line about inputs.json


def test_the_steps_that_were_made_stay_the_first_ones(tmp_path: Path) -> None:
    two = ["stages.0.training.steps=2", "stages.1.training.steps=2"]
    staged = load_recipe(STAGES, two)
    plain = load_recipe("quickstart", ["training.steps=3"])
    third = {**STAGES, "stages": [*STAGES["stages"], {"method": {"name": "psft"}}]}  # type: ignore[misc]
    second = {"stage": 2, "first_step": 2, "step": 1}
    swapped = {**STAGES, "stages": STAGES["stages"][::-1]}  # type: ignore[index]

    for before, now, state, what in (
        (plain, staged, {"stage": 1, "first_step": 0, "step": 3}, "the run has no stages, the recipe 2 stages"),
        (staged, plain, second, "the run has 2 stages, the recipe no stages"),
        (load_recipe(third, two), staged, second, "the run has 3 stages, the recipe 2 stages"),
        (staged, load_recipe(STAGES, ["training.steps=3"]), second, "stages took 2 steps, and the recipe gives them 3"),
        (staged, load_recipe(STAGES, ["stages.1.training.steps=0", two[0]]), second, "stage 2 is at step 1, .* at 0"),
        (staged, load_recipe(swapped, two), second, "finished stage cannot be changed\n  stages.0.method.name: sft → dft"),
        (staged, load_recipe(STAGES, [*two, "optim.lr=1"]), second, "cannot be changed\n  stages.0.optim.lr: 0.0005 → 1.0\nLeave"),
    ):  # fmt: skip
        with pytest.raises(SrftError, match=what):
            compared(tmp_path, before, now, state)
    longer = load_recipe(STAGES, [two[0], "stages.1.training.steps=5", "stages.0.logging.samples_every=1"])
    assert compared(tmp_path, staged, longer, second, word=False) == ["changed: stages.1.training.steps: 2 → 5"]
    assert compared(tmp_path, staged, load_recipe(third, two), second, word=False) == ["stage 3 is new"]
    lr = load_recipe(STAGES, [*two, "stages.1.optim.lr=1"])
    assert compared(tmp_path, staged, lr, second) == ["changed: stages.1.optim.lr: 0.0005 → 1.0"]
    with pytest.raises(SrftError, match="allow_changes"):
        compared(tmp_path, staged, lr, second, word=False)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    """A job's script may say --resume whenever there is a run."""
    with pytest.raises(SrftError, match="no run to continue") as error:
        train(sft(), tmp_path / "run", resume=True)
    assert "leave --resume out" in error.value.fix
    rows = train(sft(), tmp_path / "run").metrics
    weights = (tmp_path / "run/checkpoints/step-000001/model.safetensors").read_bytes()
    for folder in ("checkpoints", "trainer"):  # killed between the two renames
        (tmp_path / f"run/{folder}/step-000001").rename(tmp_path / f"run/{folder}/step-000001.partial")
    again = train(out=tmp_path / "run", resume=True)
    assert [{**row, **dict.fromkeys(TIMES, 0)} for row in again.metrics] == [
        {**row, **dict.fromkeys(TIMES, 0)} for row in rows
    ]
    assert (again.directory.checkpoint / "model.safetensors").read_bytes() == weights
    shutil.rmtree(tmp_path / "run/checkpoints")  # a checkpoint there was is no reason to lose what was trained
    with pytest.raises(SrftError, match="no checkpoint here"):
        train(out=tmp_path / "run", resume=True)
    assert len(again.metrics) == 1


TIMES = ("seconds/collect", "seconds/update", "step_time", "tokens_per_second", "seconds_left")


def test_the_second_on_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    train(sft("training.steps=0"), tmp_path / "run")
    (tmp_path / "new").mkdir()
    for folder, resume in (("run", True), ("new", False)):
        lock = Lock(tmp_path / folder / "run.lock")
        lock.take()
        before = contents(tmp_path / folder)
        with pytest.raises(SrftError, match=f"another process writes there: process {os.getpid()} on"):
            train(sft("training.steps=0"), tmp_path / folder, resume=resume)
        assert contents(tmp_path / folder) == before
        lock.close()
    assert train(sft("training.steps=0"), tmp_path / "new").finished
    lock = Lock(tmp_path / "evaluation/run.lock")
    lock.take()
    recipe = load_evaluation("srft:model", ["benchmarks=srft:arithmetic/test.jsonl", "limit=1"])
    with pytest.raises(SrftError, match="another process writes there"):
        evaluate(recipe, out=tmp_path / "evaluation")
    lock.close()


def command_of(out: Path, steps: int) -> list[str]:
    return [
        sys.executable,
        "-u",
        "-m",
        "srft",
        "train",
        "quickstart-sft",
        *ALONE,
        f"training.steps={steps}",
        "--out",
        str(out),
    ]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src")}


def test_a_closed_pipe_does_not_end_a_run(tmp_path: Path) -> None:
    with subprocess.Popen(
        command_of(tmp_path / "run", 3), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"sft on srft:model" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert RunDir(tmp_path / "run").checkpoint.name == "step-000003"


def at_step_one(out: Path) -> tuple[int, int]:
    """A run in a terminal of its own, in its first step: its process, and the terminal's other end."""
    process, terminal = pty.fork()
    if process == 0:
        os.execve(sys.executable, command_of(out, 500), ENVIRONMENT)
    shown = b""
    while b"step 1/500" not in shown:
        shown += os.read(terminal, 4096)
    return process, terminal


def test_a_lost_terminal_saves(tmp_path: Path) -> None:
    """SIGHUP, and every write to the terminal fails from then on."""
    process, terminal = at_step_one(tmp_path / "run")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130
    run = RunDir(tmp_path / "run")
    assert run.checkpoint.name == f"step-{len(run.metrics):06d}"


def test_a_second_ctrl_c_stops_at_once_and_leaves_whole_files(tmp_path: Path) -> None:
    process, terminal = at_step_one(tmp_path / "run")
    os.write(terminal, b"\x03")
    shown = b""
    while b"Once more to stop without saving" not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.close(terminal)
    run = RunDir(tmp_path / "run")
    assert (code != 0, run.checkpoints) == (True, [])
    assert train(sft("training.steps=1"), run.path, resume=True).finished


def test_only_a_second_ctrl_c_stops_at_once() -> None:
    """SIGHUP comes twice from one lost terminal, or after a SIGTERM; one that nohup has taken away stays so."""
    with stop_on_signals(announce=False) as interruption:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals(announce=False) as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interruption.requested
    finally:
        signal.signal(signal.SIGHUP, before)
