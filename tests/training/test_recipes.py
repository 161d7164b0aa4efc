"""Every packaged recipe: the quickstarts train and resume, the papers' are planned on a model's config alone."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from srft import Recipe, Run, load_recipe, methods, train
from srft.data import resolve_path
from srft.errors import SrftError
from srft.policy import load_config
from srft.recipe import list_recipes
from srft.training import plan
from srft.training.plan import count_parameters, make_plan
from srft.verify import Verifier
from tests.training.test_train import weights

METHODS = sorted(methods())  # before any test registers its own
QUICK = [name for name in list_recipes() if name.startswith("quickstart")]
PAPERS = [name for name in list_recipes() if name.startswith("qwen")]

TERMS = {
    "chord": "sft rl", "dapo": "rl", "dft": "sft", "dpo": "dpo", "dr-grpo": "rl", "gem": "gem", "grpo": "rl",
    "hpt": "sft rl", "iw-sft": "sft", "luffy": "rl_demo rl_rollout", "ppo": "rl value", "prime": "rl reward_model",
    "psft": "psft", "relift": "rl", "rft": "sft", "sasr": "sft rl", "sft": "sft", "sft+rl": "sft rl",
    "sft-kl": "sft kl", "srft": "sft_demo rl_demo rl_correct rl_wrong", "superrl": "sft rl", "tapo": "rl",
    "uft": "rl kl sft_hint",
}  # fmt: skip
SHOWN = {  # beside the losses, and the share of clipped tokens where a method clips
    "chord": "method/mu", "dpo": "rewards/margins rewards/accuracies", "hpt": "method/sft_share",
    "iw-sft": "method/w_sft", "ppo": "method/value grad_norm/critic", "prime": "grad_norm/reward_model",
    "srft": "method/w_sft method/w_rl", "superrl": "method/sft_share",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans measure the machine's speed; nothing here looks at it."""
    monkeypatch.setattr(plan, "_flops_per_second", lambda: 1e12)


def tiny(name: str, *changes: str) -> Recipe:
    """The recipe in a few seconds: two steps, or one a stage, of 8 prompts with 2 rollouts."""
    recipe = load_recipe(name)
    shared = ["training.device=cpu", "verify.workers=1", "evaluation.sets={}", "rollout.n=2"]
    if recipe.buffer.size:
        shared.append("buffer.size=3")
    if recipe.advantage.position:
        shared.append("advantage.position.steps=[1, 2]")
    if recipe.method.name == "sasr":
        shared.append("method.warmup_steps=1")
    parts = [(f"stages.{i}.", part, 1) for i, part in enumerate(recipe.stages)]
    shared += [f"{prefix}optim.lr=1e-4" for prefix, *_ in parts]  # or one step unlearns what the next one samples
    for prefix, part, steps in [("", recipe, 2), *parts]:
        shared.append(f"{prefix}training={{steps: {steps}, epochs: null, prompts_per_step: 8}}")
        shared.append(f"{prefix}data.limit=32")
        if part.data.selection:
            shared.append(f"{prefix}data.selection.n=2")
    return load_recipe(name, [*shared, *changes])


def promised(part: Recipe) -> set[str]:
    """The metrics that a step of this recipe must show."""
    name = part.method.name
    terms = TERMS[name].split()
    found = {"grad_norm", "lr", *(f"loss/{term}" for term in terms), *SHOWN.get(name, "").split()}
    if name == "dpo":
        return found
    found |= {"loss/total", "skipped_updates", *(f"gradient_share/{term}" for term in terms)}
    if {"rl", "psft", "rl_correct"} & set(terms) and name != "sasr":
        found.add("method/clip_fraction")
    if part.rollout.refill:
        found |= {"groups", "groups_drawn"}
    if part.buffer.size:
        found.add("buffer/size")
    if name not in ("sasr", "uft"):  # of which not every step has rollouts, and hints
        found |= {"reward"} if "rollouts" in part.needs else set()
        found |= {"demo_reward"} if "demonstrations" in part.needs else set()
    return found


@pytest.mark.parametrize("name", QUICK)
def test_quickstarts_train_and_resume(tmp_path: Path, name: str) -> None:
    recipe = tiny(name)
    if recipe.stages:
        first = train(recipe.model_copy(update={"stages": recipe.stages[:1]}), tmp_path / "run")
        before = weights(first.directory.checkpoint)
        run = train(recipe, tmp_path / "run", resume=True)
        steps = [1] * len(recipe.stages)
    else:
        first = train(recipe, tmp_path / "run")
        before = weights(first.directory.checkpoint)
        run = train(tiny(name, "training.steps=3"), tmp_path / "run", resume=True)
        steps = [3]
    assert first.finished
    assert run.finished
    assert [row["stage"] for row in run.metrics] == [i for i, n in enumerate(steps, 1) for _ in range(n)]
    assert [row["step"] for row in run.metrics] == list(range(1, sum(steps) + 1))
    for row in run.metrics:
        part = recipe.parts[row["stage"] - 1]
        assert promised(part) <= row.keys()
        assert all(math.isfinite(value) for value in row.values())
        if shares := [v for k, v in row.items() if k.startswith("gradient_share/")]:
            assert sum(shares) == pytest.approx(1)
    assert run.metrics[-1].get("skipped_updates", 0) == 0
    assert any(row["grad_norm"] > 0 for row in run.metrics)
    assert moved(weights(resolve_path("srft:model")), before)
    assert moved(before, weights(run.directory.checkpoint))
    selected(recipe, run)
    extras(recipe, run)


def moved(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[key], other[key]) for key in one)


def selected(recipe: Recipe, run: Run) -> None:
    """The selection of a stage lies in the run directory, in columns that `data.path` reads."""
    for stage, part in enumerate(recipe.parts, 1):
        file = run.directory.path / f"selection-{stage}.jsonl"
        assert file.exists() == (part.data.selection is not None)
        if part.data.selection is not None:
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            columns = {"chosen", "rejected"} if part.data.selection.keep == "pairs" else {"completion"}
            assert rows
            assert all({"prompt", "answer", *columns} <= row.keys() for row in rows)


def extras(recipe: Recipe, run: Run) -> None:
    """What single recipes promise."""
    rows = run.metrics
    if recipe.method.name == "chord" and not recipe.stages:
        phi = recipe.method_options["phi"]
        assert rows[0]["method/mu"] == pytest.approx(0.1 if phi else 0.9)
        assert (rows[-1]["method/mu"] < rows[0]["method/mu"]) != phi
    if recipe.buffer.size:
        assert any("buffer/loss" in row for row in rows)  # it was full at least once
    if recipe.method.name == "sasr":
        assert "reward" not in rows[0]
    files = sorted((run.directory.path / "rollouts").glob("*.jsonl"))
    saved = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    if recipe.rollout.guidance:
        assert {True, False} == {"pattern of thought" in row["prompt"] for row in saved}
    if recipe.rollout.hint:
        assert any(row["is_demo"] and not row["finished"] for row in saved)  # the hint
    for part, row in ((recipe.parts[row["stage"] - 1], row) for row in rows):
        if part.rollout.refill and "rollouts" in part.needs:
            assert 0 < row["groups"] <= 8 <= row["groups_drawn"]
    if recipe.parts[-1].method.name == "dpo":
        with pytest.raises(SrftError, match="cannot go on from step 1 to 2"):
            train(tiny(recipe.name, "stages.1.training.steps=2"), run.directory.path, resume=True)


def test_a_resumed_run_follows_the_schedule_of_its_recipe(tmp_path: Path) -> None:
    def sft(*changes: str) -> Recipe:
        return tiny("quickstart-sft", "optim.warmup=0", *changes)

    train(sft(), tmp_path / "run")
    run = train(sft("training.steps=4", "optim.lr=1e-3"), tmp_path / "run", resume=True)
    # After each step's update: the linear schedule of 2 steps from 2e-3, then that of 4 steps from 1e-3.
    assert [row["lr"] for row in run.metrics] == pytest.approx([1e-3, 0, 2.5e-4, 0])


def test_every_method_has_recipes() -> None:
    for names in (QUICK, PAPERS):
        used = {part.method.name for name in names for part in load_recipe(name).parts}
        assert used == set(METHODS)
    assert set(TERMS) == set(METHODS)


def test_every_quickstart_has_its_paper() -> None:
    endings = [name.removeprefix("quickstart-") for name in QUICK if name != "quickstart"]
    assert [e for e in endings if not any(paper.endswith(f"-{e}") for paper in PAPERS)] == []


QWEN_7B = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944, "model_type": "qwen2",
    "max_position_embeddings": 4096, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
    "rope_theta": 10000, "tie_word_embeddings": False, "vocab_size": 152064, "eos_token_id": 1,
}  # fmt: skip
CONFIGS = {
    "Qwen/Qwen2.5-Math-7B": QWEN_7B,
    "Qwen/Qwen2.5-7B-Instruct": {**QWEN_7B, "max_position_embeddings": 32768, "rope_theta": 1000000},
    "Qwen/Qwen3-4B-Base": {
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 2560, "intermediate_size": 9728, "model_type": "qwen3",
        "head_dim": 128, "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 36,
        "num_key_value_heads": 8, "rope_theta": 1000000, "tie_word_embeddings": True, "vocab_size": 151936,
        "eos_token_id": 1,
    },
}  # fmt: skip
PARAMETERS = {
    "Qwen/Qwen2.5-Math-7B": 7615616512,
    "Qwen/Qwen2.5-7B-Instruct": 7615616512,
    "Qwen/Qwen3-4B-Base": 4022468096,
}
USER = {"role": "user", "content": "2 + 3?"}
ROWS = {
    "Elliott/Openr1-Math-46k-8192": {
        "data_source": "openr1", "ability": "math", "reward_model": {"ground_truth": "5", "style": "rule"},
        "prompt": [{"role": "system", "content": "x"}, USER],
        "target": [{"role": "assistant", "content": "<think>\nfive</think>\n\\boxed{5}"}],
    },
    "open-r1/DAPO-Math-17k-Processed": {
        "prompt": "2 + 3?", "solution": "5", "reward_model": {"ground_truth": "5", "style": "rule-lighteval/MATH_v2"},
    },
    "HuggingFaceH4/ultrafeedback_binarized": {
        "prompt": "2 + 3?", "messages": [USER, {"role": "assistant", "content": "Five."}],
        "chosen": [USER, {"role": "assistant", "content": "Five."}],
        "rejected": [USER, {"role": "assistant", "content": "Six."}], "score_chosen": 9.0, "score_rejected": 1.0,
    },
    "HuggingFaceH4/MATH-500": {"problem": "2 + 3?", "solution": "It is \\boxed{5}.", "answer": "5"},
    "openai/gsm8k": {"question": "2 + 3?", "answer": "2+3=<<2+3=5>>5\n#### 5"},
}  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A local stand-in for each model and data set of the hub: the model's config, one row in the set's columns."""
    found = {}
    for path, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp("hub") / path.rpartition("/")[2]
        ignored = shutil.ignore_patterns("*.safetensors", "config.json")
        shutil.copytree(resolve_path("srft:model"), folder, ignore=ignored)
        (folder / "config.json").write_text(json.dumps(config))
        found[path] = str(folder)
    for path, row in ROWS.items():
        file = tmp_path_factory.mktemp("hub") / "rows.jsonl"
        file.write_text(json.dumps(row) + "\n")
        found[path] = str(file)
    return found


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(1) as one:
        yield one


def local(name: str, sources: dict[str, str]) -> Recipe:
    """The recipe with everything of the hub replaced."""
    recipe = load_recipe(name)
    changes = [f"model.path={sources[recipe.model.path]}", f"data.path={sources[recipe.data.path]}"]
    changes += [f"stages.{i}.data.path={sources[part.data.path]}" for i, part in enumerate(recipe.stages)]
    changes += [f"evaluation.sets.{key}.path={sources[chosen.path]}" for key, chosen in recipe.evaluation.sets.items()]
    return load_recipe(name, changes)


@pytest.mark.parametrize("name", PAPERS)
def test_papers_recipes_are_planned_on_a_config_alone(name: str, sources: dict[str, str], verifier: Verifier) -> None:
    published, recipe = load_recipe(name), local(name, sources)
    for part in recipe.parts:
        found = make_plan(part, verifier)
        assert len(found.prompts) == 1
        assert found.steps >= 1
        assert bool(found.prompts[0].demonstrations) or not part.reads_demonstrations
        if part.method.name == "dpo":
            assert part.data.selection is None
            assert found.prompts[0].problem.rejected == "Six."
    assert published.model.gradient_checkpointing
    assert published.training.checkpoint_every or published.stages


@pytest.mark.parametrize("path", CONFIGS)
def test_papers_models_have_their_size(path: str, sources: dict[str, str]) -> None:
    assert count_parameters(load_config(sources[path])) == PARAMETERS[path]


EPOCHS, STEPS, BATCH, UPDATES = (
    "training.epochs",
    "training.steps",
    "training.prompts_per_step",
    "optim.updates_per_batch",
)
LR, LENGTH, N = "optim.lr", "rollout.max_response_length", "rollout.n"
RL = {LR: 1e-6, "optim.schedule": "constant", STEPS: 500, BATCH: 128, N: 8, LENGTH: 8192}  # SRFT App. B
SFT = {LR: 5e-6, "optim.schedule": "linear", "optim.warmup": 0.1, EPOCHS: 3, BATCH: 128}
PSFT = {LR: 1e-6, "optim.weight_decay": 0.1, BATCH: 256, UPDATES: 8, "method.clip_high": 0.28}  # PSFT Tables 6 to 9
DAPO = {
    LR: 1e-6, BATCH: 256, UPDATES: 8, STEPS: 100, N: 8, LENGTH: 10240, "method.clip_low": 0.2, "method.clip_high": 0.28,
    "method.overlong_buffer": 0.2, "rollout.temperature": 1,
}  # fmt: skip
DPO = {LR: 5e-7, BATCH: 64, EPOCHS: 1, "method.beta": 0.01, LENGTH: 3072}


@pytest.mark.parametrize(
    ("name", "published"),
    [
        *((f"qwen2.5-math-7b-{x}", [RL]) for x in ("grpo", "sft+rl", "srft", "dr-grpo", "superrl", "sasr")),
        ("qwen2.5-math-7b-low-entropy-clipping", [RL | {"method.max_prob": 0.9}]),
        ("qwen2.5-math-7b-sft-kl", [SFT | {"method.kl_weight": 0.2}]),
        ("qwen2.5-math-7b-sft-then-rl", [SFT, RL]),
        ("qwen2.5-math-7b-rl-then-sft", [RL, SFT]),
        ("qwen2.5-math-7b-rl-then-sft-kl", [RL, SFT | {"method.kl_weight": 0.2}]),
        ("qwen2.5-math-7b-sft-n-then-rl", [{STEPS: 350}, RL | {STEPS: 150}]),
        ("qwen2.5-math-7b-luffy", [RL | {UPDATES: 2, "rollout.demo_slots": "replace", "method.gamma": 0.1}]),
        ("qwen2.5-math-7b-relift", [RL | {UPDATES: 2, "buffer.size": 128}]),
        ("qwen2.5-math-7b-hpt", [RL | {LR: 5e-6, UPDATES: 2, "method.gate": 0, "method.advantage_std": False}]),
        ("qwen2.5-math-7b-uft", [{LR: 1e-6, N: 4, BATCH: 256, "rollout.hint.chunks": 5, "method.hint_weight": 0.001}]),
        ("qwen2.5-math-7b-chord-mu", [{"method.mu_peak": 0.9, "method.mu_low": 0.05, "method.mu_steps": 200}]),
        ("qwen2.5-math-7b-chord-phi", [{"method.mu": 0.1, "method.phi": True}]),
        ("qwen2.5-math-7b-dft", [{LR: 5e-5, BATCH: 256, EPOCHS: 1}]),
        ("qwen2.5-math-7b-prime", [{LR: 5e-7, "optim.auxiliary_lr": 1e-6, BATCH: 256, N: 4, "method.beta": 0.05}]),
        ("qwen2.5-7b-instruct-psft", [PSFT]),
        ("qwen2.5-7b-instruct-psft-prolong", [PSFT | {EPOCHS: 10}]),
        ("qwen2.5-7b-instruct-psft-warmup", [{STEPS: 200, LR: 2e-5, BATCH: 256, UPDATES: 1}, PSFT]),
        ("qwen2.5-7b-instruct-sft", [{LR: 2e-5, BATCH: 256, UPDATES: 1}]),
        ("qwen2.5-7b-instruct-sft-kl", [{LR: 2e-5, BATCH: 256, UPDATES: 1, "method.kl_weight": 0.5}]),
        ("qwen2.5-7b-instruct-psft-then-rl", [PSFT, DAPO]),
        ("qwen2.5-7b-instruct-sft-then-rl", [{LR: 2e-5, UPDATES: 1}, DAPO]),
        ("qwen3-4b-base-psft-then-dpo", [PSFT | {EPOCHS: 5}, DPO]),
        ("qwen3-4b-base-psft-prolong-then-dpo", [PSFT | {EPOCHS: 10}, DPO]),
        ("qwen3-4b-base-sft-then-dpo", [{LR: 2e-5, BATCH: 256, UPDATES: 1, EPOCHS: 5}, DPO]),
    ],
)
def test_published_values(name: str, published: list[dict[str, object]]) -> None:
    parts = load_recipe(name).parts
    assert len(parts) == len(published)
    for part, values in zip(parts, published, strict=True):
        tree = part.model_dump() | {"method": part.method_options}
        for key, value in values.items():
            found: Any = tree
            for word in key.split("."):
                found = found[word]
            assert found == value, key
        if name.startswith("qwen2.5-math-7b"):
            assert part.model.config == {"rope_theta": 40000.0, "max_position_embeddings": 16384}


def test_every_published_selection_is_a_recipe() -> None:
    kept = {name: load_recipe(name).data.selection for name in PAPERS if "-rft" in name}
    assert sorted(how.keep for how in kept.values() if how) == ["correct", "entropy", "noise", "noise+rbf", "rbf"]


ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    line.partition("srft train ")[2]
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for block in re.findall(r"```bash\n(.*?)```", file.read_text(), re.DOTALL)
    for line in block.splitlines()
    if "srft train " in line and "--resume" not in line
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_documents_are_recipes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)
    if "--out" in words:
        at = words.index("--out")
        words = words[:at] + words[at + 2 :]
    name, *changes = [word for word in words if not word.startswith("--")]
    assert load_recipe(name, changes).title
