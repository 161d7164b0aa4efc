"""TRL's trainers as contenders of `against_trl.py`, with the recipe's settings and nothing that costs time beside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from contenders import Step, Work, peak_memory, prepare, reward_of, sketch
from torch import Tensor

from srft.data.tokenize import Prompt
from srft.policy.load import load_model, load_tokenizer
from srft.policy.placement import pick_device, pick_precision
from srft.recipe.schema import Recipe


def trl(pipe: Connection, work: Work, options: Mapping[str, Any], prompts: Sequence[Prompt]) -> None:
    """TRL: its trainer's own loop, held at the beginning of each step until it is told to go on."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState

    prepare(work)
    recipe = work.load()
    build = _grpo_trainer if work.task == "grpo" else _sft_trainer

    class Held(TrainerCallback):
        def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            trainer.loss_of_step = trainer.sampling_seconds = 0.0
            pipe.recv()
            self.began = work.now()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.sketch = sketch(list(model.parameters())) if state.global_step == 0 else []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seconds = work.now() - self.began
            rollouts, tokens = trainer.drawn()
            training = seconds - trainer.sampling_seconds
            pipe.send(
                Step(
                    trainer.sampling_seconds, training, tokens, trainer.loss_of_step, self.sketch, rollouts,
                    peak=peak_memory(), loaded=loaded,
                )
            )  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        trainer = build(recipe, {**_common(recipe, folder), **options}, prompts, work.now)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Held())
        loaded = peak_memory()
        trainer.train()


def _common(recipe: Recipe, folder: str) -> dict[str, Any]:
    """What both trainers of TRL are told: the recipe's optimizer and precision, and nothing that costs time beside."""
    optim = recipe.optim
    device = pick_device(recipe.training.device)
    return {
        "output_dir": folder, "use_cpu": device.type == "cpu", "seed": recipe.training.seed, "disable_tqdm": True,
        "bf16": pick_precision(recipe.training.precision, device) == "bf16", "gradient_checkpointing": False,
        "learning_rate": optim.lr, "lr_scheduler_type": "constant", "weight_decay": optim.weight_decay,
        "adam_beta1": optim.betas[0], "adam_beta2": optim.betas[1], "max_grad_norm": optim.max_grad_norm,
        "report_to": "none", "save_strategy": "no", "logging_strategy": "no",
        "train_sampling_strategy": "sequential",
    }  # fmt: skip


def _batches(config: dict[str, Any], rows: int, steps: int) -> dict[str, Any]:
    """The config with as many micro-batches as a step's rows take."""
    size = min(int(config.pop("per_device_train_batch_size", 16)), rows)
    if rows % size:
        raise SystemExit(f"{rows} rows a step cannot be cut by per_device_train_batch_size={size}")
    sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": rows // size}
    return {**config, **sizes, "max_steps": steps}


def _grpo_trainer(recipe: Recipe, config: dict[str, Any], prompts: Sequence[Prompt], now: Callable[[], float]) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from srft.verify import Verifier

    verifier, n = Verifier(recipe.verify.workers, recipe.verify.timeout), recipe.rollout.n

    def reward(completions: list[str], completion_ids: list[list[int]], prompts: list[str], **_: Any) -> list[float]:
        verifier.grade([(table[int(p)].problem, text) for p, text in zip(prompts, completions, strict=True)])
        return [reward_of(ids) for ids in completion_ids]

    class Trainer(GRPOTrainer):
        def _tokenize_prompts(self, prompts: list[str]) -> Any:
            return [list(table[int(p)].token_ids) for p in prompts], None, {}

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            began = now()
            self.inputs = super()._generate_and_score_completions(inputs)
            self.sampling_seconds = now() - began
            return self.inputs

        def compute_loss(self, *arguments: Any, **options: Any) -> Tensor:
            loss = super().compute_loss(*arguments, **options)
            self.loss_of_step += float(loss.detach())
            return loss

        def drawn(self) -> tuple[list[list[int]], int]:
            ids, mask = self.inputs["completion_ids"], self.inputs["completion_mask"].bool()
            return [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)], int(mask.sum())

    table = list(prompts)
    per_step = recipe.training.prompts_per_step
    config = _batches(config, per_step * n, len(table) // per_step) | {
        "num_generations": n, "max_completion_length": recipe.rollout.max_response_length, "beta": 0.0,
        "temperature": recipe.rollout.temperature, "loss_type": "grpo", "shuffle_dataset": False,
    }  # fmt: skip
    data = Dataset.from_list([{"prompt": str(i)} for i in range(len(table))])
    return Trainer(
        load_model(recipe.model), reward, GRPOConfig(**config), data, processing_class=load_tokenizer(recipe.model)
    )


def _sft_trainer(recipe: Recipe, config: dict[str, Any], prompts: Sequence[Prompt], now: Callable[[], float]) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class Trainer(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
            self.tokens = int((inputs["labels"] != -100).sum()) + getattr(self, "tokens", 0)
            loss = super().compute_loss(model, inputs, *arguments, **options)
            self.loss_of_step += float(loss.detach())
            return loss

        def drawn(self) -> tuple[list[list[int]], int]:
            tokens, self.tokens = self.tokens, 0
            return [], tokens

    per_step = recipe.training.prompts_per_step
    config = _batches(config, per_step, len(prompts) // per_step) | {
        "max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}
    }  # fmt: skip
    rows = [
        {
            "input_ids": [*p.token_ids, *p.demonstrations[0].token_ids],
            "labels": [-100] * len(p.token_ids) + list(p.demonstrations[0].token_ids),
        }
        for p in prompts
    ]
    tokenizer = load_tokenizer(recipe.model)
    return Trainer(
        load_model(recipe.model), args=SFTConfig(**config), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
