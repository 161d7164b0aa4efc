"""The command line as a user would run it."""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from srft.cli import app
from srft.cli.evaluate import FORMER_OPTIONS
from srft.data import resolve_path
from srft.errors import SrftError
from srft.evaluation.benchmarks import BENCHMARKS
from srft.objective import get_method, methods
from srft.recipe.catalog import list_recipes
from srft.recipe.load import load_evaluation, load_recipe
from tests.helpers import ROOT, SMALL, blocks, command

QWEN_MATH_7B = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944, "model_type": "qwen2",
    "max_position_embeddings": 4096, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
    "rope_theta": 10000, "tie_word_embeddings": False, "vocab_size": 152064, "eos_token_id": 1,
}  # fmt: skip


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"srft {metadata.version('srft')}\n"


def test_help_names_every_command_and_completion() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) == 13
    for name in (*names, "--version", "--install-completion", "--show-completion"):
        assert name.replace("_", "-") in output


def test_recipes_are_listed_shown_and_copied(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = [line.split("  ")[0] for line in runner.invoke(app, ["recipes"]).output.splitlines()]
    assert listed == list(list_recipes())
    assert "wrong" in runner.invoke(app, ["recipes", "gsm8k-smollm2"]).output
    copy = tmp_path / "mine.yaml"
    assert runner.invoke(app, ["recipes", "quickstart", "--copy", str(copy)]).exit_code == 0
    assert load_recipe(copy).training == load_recipe("quickstart").training
    assert runner.invoke(app, ["recipes", "quickstart", "--copy", str(copy)]).exit_code != 0


def completed(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    environment = {"_SRFT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return CliRunner().invoke(app, [], prog_name="srft", env=environment).output.split()


def test_recipes_methods_keys_and_values_are_completed() -> None:
    psft = [name for name in list_recipes() if name.startswith("quickstart-psft-")]
    assert completed("srft", "train", "quickstart-psft-") == psft
    assert completed("srft", "methods", "dap") == ["dapo"]
    assert completed("srft", "train", "--method", "dr-") == ["dr-grpo"]
    assert completed("srft", "train", "quickstart", "optim.w") == ["optim.warmup=", "optim.weight_decay="]
    assert completed("srft", "plan", "quickstart", "training.st") == ["training.steps="]
    assert completed("srft", "train", "quickstart", "method.name=chor") == ["method.name=chord"]
    assert completed("srft", "train", "quickstart", "training.shard=") == [
        f"training.shard={value}" for value in ("true", "false", "null")
    ]
    assert completed("srft", "train", "quickstart", "optim.lr=") == []
    assert completed("srft", "train", "quickstart", "rollout.demo_slots=") == [
        "rollout.demo_slots=add",
        "rollout.demo_slots=replace",
    ]


def test_lists_have_a_line_each_in_a_pipe() -> None:
    for words, names in (
        (["methods"], own_methods()),
        (["benchmarks"], list(BENCHMARKS)),
        (["recipes"], list_recipes()),
    ):
        lines = CliRunner().invoke(app, words).output.splitlines()
        assert [line.split("  ")[0] for line in lines] == list(names)
        assert all(line.partition("  ")[2].strip() for line in lines)


def own_methods() -> list[str]:
    return sorted(name for name, method in methods().items() if method.function.__module__.startswith("srft."))


@cache
def methods_of_recipes() -> dict[str, list[str]]:
    return {name: load_recipe(name).title.split(" → ") for name in list_recipes()}


@pytest.mark.parametrize("name", own_methods())
def test_a_method_is_shown_with_its_options_and_recipes(name: str) -> None:
    output = CliRunner().invoke(app, ["methods", name]).output
    method = get_method(name)
    assert output.startswith(f"{name}  {method.summary}\n")
    for option in method.options:
        assert f"  option   {option}=" in output
    for preset in method.presets:
        assert f"  preset   {preset}" in output
    assert f"  source   {method.source}\n" in output
    using = output.rpartition("recipes  ")[2].strip().split(", ")
    assert using == [recipe for recipe, used in methods_of_recipes().items() if name in used]


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(SrftError, match="Did you mean 'grpo'"):
        CliRunner().invoke(app, ["methods", "GPRO"], catch_exceptions=False)


def test_keys_are_listed_by_section() -> None:
    lines = CliRunner().invoke(app, ["recipes", "--fields", "optim"]).output.splitlines()
    assert lines[1].split("\t")[:3] == ["optim.lr", "float > 0", "1e-06"]
    assert all(line.startswith("optim") for line in lines)


def test_a_benchmark_is_listed_with_its_set_and_protocol() -> None:
    (line,) = [x for x in CliRunner().invoke(app, ["benchmarks"]).output.splitlines() if x.startswith("aime24 ")]
    for words in ("30 problems", "srft x32", "HuggingFaceH4/aime_2024", "split train", "aime24.jsonl"):
        assert words in line


def test_the_doctor_says_what_works_and_exits_with_1_where_something_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app, ["doctor"])
    states = {line[5:33].strip(): line[:4].strip() for line in result.output.splitlines() if line[4:5] == " "}
    assert result.exit_code == 0, result.output
    assert {states[name] for name in ("python", "torch", "grader", "embedded model", "engine transformers")} == {"ok"}
    assert states["engine server"] == "off"  # it has no urls

    requires = ["torch>=99", "absent-package>=1", "also-absent>=1; extra == 'lora'"]
    monkeypatch.setattr("srft.run.doctor.metadata.requires", lambda name: requires)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "bad  torch" in result.output
    assert "pip install 'absent-package>=1'" in result.output
    assert re.search(r"off  extra lora: also-absent .*srft\[lora\]", result.output)
    assert "Does not work: torch, absent-package." in result.output


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--optim.lr", "3"], "Write optim.lr=3 without dashes."),
        (["--optim.lr=3"], "Write optim.lr=3 without dashes."),
        (["--lr", "3"], "Write optim.lr=3 without dashes."),
        (["--LR", "3"], "Write optim.lr=3 without dashes."),
        (["--learning-rate=3"], "Write optim.lr=3 without dashes."),
        (["--num_generations", "3"], "Write rollout.n=3 without dashes."),
        (["--output_dir", "x"], "Write --out x."),
    ],
)
def test_an_option_that_is_a_key_is_told_as_one(words: list[str], fix: str) -> None:
    for order in (["train", "quickstart", *words], ["train", *words, "quickstart"], ["plan", "quickstart", *words]):
        with pytest.raises(SrftError) as error:
            CliRunner().invoke(app, order, catch_exceptions=False)
        assert error.value.fix == fix


def test_dry_run_of_quickstart(tmp_path: Path) -> None:
    result = command("train", "quickstart", "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in (
        "2000 problems",
        "<|im_start|>assistant",
        "<think>",
        "memory per process",
        "200 problems × 8",
    ):
        assert words in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [f"qwen2.5-math-7b-{ending}" for ending in ("srft", "sft")])
def test_dry_run_of_the_papers_recipes_on_a_config_alone(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_path("srft:model"), folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    (folder / "config.json").write_text(json.dumps(QWEN_MATH_7B))
    data = tmp_path / "openr1.jsonl"
    row = {
        "data_source": "openr1", "ability": "math", "reward_model": {"ground_truth": "5", "style": "rule"},
        "prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "2 + 3?"}],
        "target": [{"role": "assistant", "content": "<think>\nfive</think>\n\\boxed{5}"}],
    }  # fmt: skip
    data.write_text(json.dumps(row) + "\n")
    result = command(
        "train", name, "--dry-run", f"model.path={folder}", f"data.path={data}", "data.max_prompt_length=2048",
        f"evaluation.sets.math500.path={data}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "7615.6 M parameters" in result.stdout
    assert "Would not start here" in result.stdout
    recipe = load_recipe(name)
    assert (recipe.model.config["rope_theta"], recipe.model.config["max_position_embeddings"]) == (40000.0, 16384)
    assert (recipe.rollout.n, recipe.rollout.max_response_length, recipe.training.prompts_per_step) == (8, 8192, 128)
    if name.endswith("-sft"):
        optim = recipe.optim
        assert (optim.lr, optim.schedule, optim.warmup, recipe.training.epochs) == (5e-6, "linear", 0.1, 3)
    else:
        assert (recipe.optim.lr, recipe.optim.schedule, recipe.training.steps) == (1e-6, "constant", 500)


def test_dry_run_shows_every_stage(tmp_path: Path) -> None:
    result = command("train", "quickstart-sft-then-dpo", "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("stage 1 of 2", "method sft: ", "2000 to train on", "stage 2 of 2", "method dpo: ", "'pairs' kept"):
        assert words in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_variant_of_a_file_is_planned(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: quickstart\nvariants:\n  short: {data: {limit: 7}}\n")
    result = command("train", "mine.yaml:short", "method.name=grpo", "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "name: mine-short" in result.stdout
    assert "data: 7 problems" in result.stdout


def test_an_error_is_two_lines_and_exit_code_2() -> None:
    result = command("train", "quickstrat")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines() == ["Error recipe: no recipe 'quickstrat'", "Did you mean 'quickstart'?"]


def test_an_unknown_option_is_a_usage_error() -> None:
    for words in (["train", "quickstart", "--frobnicate"], ["eval", "srft:model", "--frobnicate"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2
        assert "No such option: --frobnicate" in result.output


@pytest.mark.parametrize(
    ("words", "key", "change"),
    [
        (["--temperature", "0.6"], "sampling.temperature", "sampling.temperature=0.6"),
        (["--samples=4"], "sampling.n", "sampling.n=4"),
        (["--max-length", "64"], "sampling.max_response_length", "sampling.max_response_length=64"),
        (["--no-statistics"], "statistics", "statistics=false"),
        (["--config", "rope_theta=4"], "model.config", "model.config.rope_theta=4"),
        (["--revision", "main"], "model.revision", "model.revision=main"),
    ],
)
def test_a_former_option_of_eval_is_told_as_a_key(words: list[str], key: str, change: str) -> None:
    for order in (["srft:model", *words], [*words, "srft:model"]):
        with pytest.raises(SrftError) as error:
            CliRunner().invoke(app, ["eval", *order], catch_exceptions=False)
        assert f"{words[0].partition('=')[0]} is the key {key}" in str(error.value)
        assert change in error.value.fix
    assert load_evaluation("srft:model", [change], benchmarks="math500")


def test_every_former_option_of_eval_has_a_key_that_loads() -> None:
    values = {"--template": "none", "--extract": "last", "--grader": "oat", "--engine": "transformers"}
    values |= {"--precision": "fp32", "--statistics": "true", "--no-statistics": "false", "--revision": "main"}
    for option, key in FORMER_OPTIONS.items():
        value = values.get(option, "1")
        assert load_evaluation("srft:model", [f"{key}.x=1" if option == "--config" else f"{key}={value}"])


def test_a_small_train_shows_progress(tmp_path: Path) -> None:
    result = command("train", "quickstart", *SMALL, "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    for words in ("reward", "entropy", "sft_demo", "rl_wrong", "tok/s", "left", "avg", "pass", "Done"):
        assert words in result.stdout
    assert re.search(r"test[ │]+4[ │]+2[ │]+\d+\.\d %[ │]+\d+\.\d %", result.stdout)  # problems, samples, avg@2, pass@2
    assert "Traceback" not in result.stderr


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, run, objective = blocks("README.md")
    small = run.replace(
        '"training": {"steps": 2}',
        '"training": {"steps": 1, "prompts_per_step": 2, "device": "cpu"}, "evaluation": {"limit": 8}',
    )
    assert small != run
    exec(compile(small, "README.md", "exec"), {})
    exec(compile(objective, "README.md", "exec"), {})


def test_own_method_document_runs(tmp_path: Path) -> None:
    file = ROOT / "examples/half_half.py"
    assert blocks("docs/your-own-method.md")[0] == file.read_text()
    changes = ["method.name=half-half", f"method.file={file}", "method.mix=0.3", "method.fade=2"]
    result = command("train", "quickstart", *SMALL, *changes, "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["method/mix"] for row in rows] == pytest.approx([0.15, 0.0])
    assert [row["loss/sft"] > 0 for row in rows] == [True, False]
