"""The command line and the documents, as a user would run them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from srft.cli import app
from srft.data import resolve_path
from srft.recipe import list_recipes, load_recipe
from tests.training.test_train import SMALL, command

ROOT = Path(__file__).resolve().parents[1]
QWEN_MATH_7B = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944, "model_type": "qwen2",
    "max_position_embeddings": 4096, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
    "rope_theta": 10000, "tie_word_embeddings": False, "vocab_size": 152064, "eos_token_id": 1,
}  # fmt: skip


def blocks(document: str) -> list[str]:
    """The Python blocks of a document."""
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_recipes_are_listed_shown_and_copied(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["recipes"]).output
    assert all(name in listed for name in list_recipes())
    assert "wrong" in runner.invoke(app, ["recipes", "gsm8k-smollm2"]).output
    copy = tmp_path / "mine.yaml"
    assert runner.invoke(app, ["recipes", "quickstart", "--copy", str(copy)]).exit_code == 0
    assert load_recipe(copy).training == load_recipe("quickstart").training
    assert runner.invoke(app, ["recipes", "quickstart", "--copy", str(copy)]).exit_code != 0


def test_methods_are_listed() -> None:
    output = CliRunner().invoke(app, ["methods"]).output
    assert "sft+rl" in output
    assert "hpt" in output


def test_dry_run_of_quickstart(tmp_path: Path) -> None:
    found = command("train", "quickstart", "--dry-run", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    for words in (
        "2000 problems",
        "<|im_start|>assistant",
        "<think>",
        "memory per process",
        "200 problems × 8",
    ):
        assert words in found.stdout
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
    found = command(
        "train", name, "--dry-run", f"model.path={folder}", f"data.path={data}", "data.max_prompt_length=2048",
        f"evaluation.sets.math500.path={data}",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "7615.6 M parameters" in found.stdout
    assert "Would not start here" in found.stdout
    recipe = load_recipe(name)
    assert (recipe.model.config["rope_theta"], recipe.model.config["max_position_embeddings"]) == (40000.0, 16384)
    assert (recipe.rollout.n, recipe.rollout.max_response_length, recipe.training.prompts_per_step) == (8, 8192, 128)
    if name.endswith("-sft"):
        assert (recipe.optim.lr, recipe.optim.schedule, recipe.optim.warmup, recipe.training.epochs) == (
            5e-6,
            "linear",
            0.1,
            3,
        )
    else:
        assert (recipe.optim.lr, recipe.optim.schedule, recipe.training.steps) == (1e-6, "constant", 500)


def test_dry_run_shows_every_stage(tmp_path: Path) -> None:
    found = command("train", "quickstart-sft-then-dpo", "--dry-run", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    for words in ("stage 1 of 2", "method sft: ", "2000 to train on", "stage 2 of 2", "method dpo: ", "'pairs' kept"):
        assert words in found.stdout
    assert not list(tmp_path.iterdir())


def test_an_error_is_two_lines_and_exit_code_2() -> None:
    found = command("train", "quickstrat")
    assert found.returncode == 2
    assert found.stderr.strip().splitlines() == ["Error recipe: no recipe 'quickstrat'", "Did you mean 'quickstart'?"]


def test_a_small_train_shows_progress(tmp_path: Path) -> None:
    found = command("train", "quickstart", *SMALL, "--out", tmp_path / "run")
    assert found.returncode == 0, found.stderr
    for words in ("reward", "H demo", "H roll", "sft_demo", "rl_wrong", "tok/s", "left", "avg@2", "pass@2", "Done"):
        assert words in found.stdout
    assert "Traceback" not in found.stderr


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, run, objective = blocks("README.md")
    small = run.replace('"training": {"steps": 2}', '"training": {"steps": 1, "prompts_per_step": 2, "device": "cpu"}')
    assert small != run
    exec(compile(small, "README.md", "exec"), {})
    exec(compile(objective, "README.md", "exec"), {})


def test_own_method_document_runs(tmp_path: Path) -> None:
    file = ROOT / "examples/half_half.py"
    assert blocks("docs/your-own-method.md") == [file.read_text()]
    changes = ["method.name=half-half", f"method.file={file}", "method.mix=0.3", "method.fade=2"]
    found = command("train", "quickstart", *SMALL, *changes, "--out", tmp_path / "run")
    assert found.returncode == 0, found.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["method/mix"] for row in rows] == pytest.approx([0.15, 0.0])
    assert [row["loss/sft"] > 0 for row in rows] == [True, False]
