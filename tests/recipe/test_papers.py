"""The papers' recipes: their published values, and a plan of each on a model's config alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from srft.data import TEMPLATES, Problem, render, resolve_path
from srft.policy.load import ModelSettings, load_config
from srft.recipe.catalog import list_recipes
from srft.recipe.load import load_recipe
from srft.recipe.schema import Recipe
from srft.run.plan import make_plan
from srft.run.sizing.shape import count_parameters
from srft.verify import Verifier

NAMES = list(list_recipes())
QUICK = [name for name in NAMES if name.startswith("quickstart")]
PAPERS = [name for name in NAMES if name.startswith("qwen")]


def test_every_quickstart_has_its_paper() -> None:
    """Every variant of a method and every order of stages, of the methods that the papers' recipes use; a new method
    needs a quickstart alone."""
    used = {part.method.name for name in PAPERS for part in load_recipe(name).parts}
    assert len(used) >= 23
    quick = {name: {part.method.name for part in load_recipe(name).parts} for name in QUICK if name != "quickstart"}
    endings = [name.removeprefix("quickstart-") for name, methods in quick.items() if methods <= used]
    assert len(endings) > 30
    assert [ending for ending in endings if not any(paper.endswith(f"-{ending}") for paper in PAPERS)] == []


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
    places = {}
    for path, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp("hub") / path.rpartition("/")[2]
        ignored = shutil.ignore_patterns("*.safetensors", "config.json")
        shutil.copytree(resolve_path("srft:model"), folder, ignore=ignored)
        (folder / "config.json").write_text(json.dumps(config))
        places[path] = str(folder)
    for path, row in ROWS.items():
        file = tmp_path_factory.mktemp("hub") / "rows.jsonl"
        file.write_text(json.dumps(row) + "\n")
        places[path] = str(file)
    return places


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
        plan = make_plan(part, verifier)
        assert len(plan.prompts) == 1
        assert plan.steps >= 1
        assert bool(plan.prompts[0].demonstrations) or not part.reads_demonstrations
        if part.method.name == "dpo":
            assert part.data.selection is None
            assert plan.prompts[0].problem.rejected == "Six."
    assert published.model.gradient_checkpointing
    assert published.training.checkpoint_every or published.stages


@pytest.mark.parametrize("path", CONFIGS)
def test_papers_models_have_their_size(path: str, sources: dict[str, str]) -> None:
    assert count_parameters(load_config(ModelSettings(path=sources[path]))) == PARAMETERS[path]


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
        ("qwen2.5-math-7b-relift", [RL | {UPDATES: 2, "hooks.buffer.size": 128}]),
        ("qwen2.5-math-7b-hpt", [RL | {LR: 5e-6, UPDATES: 2, "method.gate": 0, "method.advantage_std": False}]),
        (
            "qwen2.5-math-7b-uft",
            [{LR: 1e-6, N: 4, BATCH: 256, "rollout.prompting.chunks": 5, "method.hint_weight": 0.001}],
        ),
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
            node: Any = tree
            for word in key.split("."):
                node = node[word]
            assert node == value, key
        if name.startswith("qwen2.5-math-7b"):
            assert part.model.config == {"rope_theta": 40000.0, "max_position_embeddings": 16384}


def test_every_published_selection_is_a_recipe() -> None:
    kept = {name: load_recipe(name).data.selection for name in PAPERS if "-rft" in name}
    assert sorted(how.keep for how in kept.values() if how) == ["correct", "entropy", "noise", "noise+rbf", "rbf"]


@pytest.mark.parametrize("name", ["qwen3-4b-base-psft-then-dpo", "qwen3-4b-base-sft-then-dpo"])
def test_alignment_has_psfts_system_prompt(name: str, tokenizer: Any) -> None:
    """PSFT A.2, in every stage."""
    for part in load_recipe(name).parts:
        rendered = render(Problem("Hello?"), TEMPLATES[part.data.template], tokenizer)
        assert "You are a helpful assistant." in str(rendered)
