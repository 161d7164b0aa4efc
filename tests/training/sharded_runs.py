"""The runs that test_sharding.py compares, all in the processes of one launch: sharded_runs.py FOLDER."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from srft.data import resolve_path
from srft.objective.registry import methods
from srft.recipe.catalog import list_recipes
from srft.recipe.load import load_recipe
from srft.recipe.schema import Recipe
from srft.run.train import train

RANKS = int(os.environ.get("WORLD_SIZE", "1"))
STEPS = 3
GRADER = "def grade(solution_str):\n    return float(sum(map(ord, solution_str)) % 2)\n"
SMALL = [
    "training.device=cpu", "evaluation.sets={}", "rollout.n=2", "rollout.max_response_length=16", "data.limit=32",
    "training.epochs=null", "training.prompts_per_step=8", "training.tokens_per_micro_batch=300", "verify.workers=1",
    "verify.check_answers=0", "data.long_demonstrations=truncate", "logging.samples_every=0",
]  # fmt: skip
RESUMED = {
    "srft": ("srft", []),
    "ppo": ("ppo", []),
    "prime": ("prime", ["model.gradient_checkpointing=true", f"training.offload={'true' if RANKS > 1 else 'false'}"]),
    "relift": ("relift", []),
    "lora": ("grpo", ["model.lora.rank=2", "method.kl_weight=0.1"]),
}


def make_model(folder: Path) -> None:
    """A random model with a head of its own, and a grader that finds some of its responses right."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve_path("srft:model"))
    config = Qwen2Config(
        vocab_size=350, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "grader.py").write_text(GRADER)


@cache
def recipes_of_methods() -> dict[str, str]:
    """A quickstart for each registered method that our own loop trains."""
    quick = {name: load_recipe(name) for name in list_recipes() if name.startswith("quickstart")}
    plain = {name: recipe for name, recipe in quick.items() if not recipe.stages}
    own = [name for name, method in methods().items() if "preferences" not in method.needs(method.defaults())]
    return {method: next(name for name, r in plain.items() if r.method.name == method) for method in own}


def small(folder: Path, name: str, steps: int, changes: list[str]) -> Recipe:
    """The recipe in a second or two, sharded where several processes run it."""
    recipe = load_recipe(name)
    own = [f"model.path={folder}/model", f"verify.function={folder}/grader.py:grade", f"training.steps={steps}"]
    own += [f"training.shard={'true' if RANKS > 1 else 'false'}"]
    own += [f"optim.updates_per_batch={min(recipe.optim.updates_per_batch, 2)}"]
    own += ["hooks.buffer.size=2"] if recipe.hooks.buffer else []
    own += ["data.selection.n=2"] if recipe.data.selection else []
    own += ["method.warmup_steps=1"] if "warmup_steps" in recipe.method_options else []
    return load_recipe(name, [*SMALL, *own, *changes])


def train_methods(folder: Path, out: Path) -> None:
    """Every method by plain gradient descent, so that weights are sums of clipped gradients."""
    adam: Any = torch.optim.AdamW
    torch.optim.AdamW = lambda parameters, lr, **_: torch.optim.SGD(parameters, lr=lr)
    for method, name in recipes_of_methods().items():
        descent = ["optim.lr=0.1", "optim.auxiliary_lr=0.1", "optim.schedule=constant", "optim.warmup=0"]
        train(small(folder, name, STEPS, descent), out / method)
    torch.optim.AdamW = adam


def train_resumed(folder: Path, out: Path, steps: int, cases: Iterable[str] = RESUMED) -> None:
    """Everything that a checkpoint holds besides the policy, up to this step, by AdamW."""
    for case in cases:
        method, changes = RESUMED[case]
        changes = ["optim.lr=1e-3", "optim.schedule=constant", "optim.warmup=0", *changes]
        recipe = small(folder, recipes_of_methods()[method], steps, changes)
        train(recipe, out / case, resume=(out / case).exists())


def main(folder: Path) -> None:
    """Train each method, and go on by one step with what fewer processes began."""
    gc.freeze()  # a run collects garbage at its end, and what the imports made is none
    Accelerator.end_training = lambda self: None  # a run leaves the process group to the next
    train_methods(folder, folder / str(RANKS))
    train_resumed(folder, folder / "resumed", {1: 1, 2: 2, 4: 3}[RANKS])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
