"""A stage on preference pairs, carried out by TRL's DPOTrainer on our policy, data and run directory."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate import Accelerator

from srft.data.template import Template, after_opening, render
from srft.data.tokenize import Prompt
from srft.errors import SrftError
from srft.training.settings import OptimSettings, TrainingSettings


def check_pairs(prompts: Sequence[Prompt], where: str) -> None:
    """Raises SrftError where TRL or a rejected response is missing."""
    if importlib.util.find_spec("trl") is None:
        raise SrftError("preference pairs need TRL", where="method.name", fix="pip install 'srft[dpo]'")
    missing = [p.problem.where for p in prompts if not (p.problem.demonstrations and p.problem.rejected)]
    if missing:
        raise SrftError(
            f"{len(missing)} of {len(prompts)} rows have no pair of `chosen` and `rejected`",
            where=missing[0] or where,
            fix="Give these columns, or take pairs of the policy's own samples: data.selection.keep: pairs.",
        )


def train_on_pairs(
    model: Any,
    tokenizer: Any,
    template: Template,
    prompts: Sequence[Prompt],
    training: TrainingSettings,
    optim: OptimSettings,
    *,
    beta: float,
    length: int,
    gradient_checkpointing: bool,
    steps: int,
    accelerator: Accelerator,
    report: Callable[[int, Mapping[str, float]], bool],
) -> None:
    """Train `model` in place for `steps` optimizer steps; the reference is the model as it comes in (PSFT Table 9).

    Args:
        beta: DPO's.
        length: tokens of a prompt and a response together, at most.
        accelerator: the run's, whose processes share each step's pairs.
        report: gets each step's number and metrics, and says whether to go on.
    """
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    rows = max(training.tokens_per_micro_batch // (2 * length), 1)
    share = training.prompts_per_step // accelerator.num_processes
    rows = max(d for d in range(1, min(rows, share) + 1) if share % d == 0)

    class Report(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                numbers = {k: float(v) for k, v in logs.items() if isinstance(v, int | float)}
                control.should_training_stop |= not report(state.global_step, numbers)

    def row(prompt: Prompt) -> dict[str, str]:
        text, opening = render(prompt.problem, template, tokenizer)
        chosen, rejected = prompt.problem.demonstrations[0], prompt.problem.rejected
        return {
            "prompt": text,
            "chosen": after_opening(chosen, opening),
            "rejected": after_opening(rejected, opening),
        }

    with tempfile.TemporaryDirectory() as scratch:
        trainer = DPOTrainer(
            model=model,
            ref_model=None if hasattr(model, "peft_config") else copy.deepcopy(model),
            args=DPOConfig(
                output_dir=scratch,
                beta=beta,
                max_length=length,
                max_steps=steps,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=share // rows,
                learning_rate=optim.lr,
                weight_decay=optim.weight_decay,
                adam_beta1=optim.betas[0],
                adam_beta2=optim.betas[1],
                max_grad_norm=optim.max_grad_norm,
                lr_scheduler_type=optim.schedule_name,
                warmup_steps=round(optim.warmup * steps),
                gradient_checkpointing=gradient_checkpointing,
                bf16=accelerator.mixed_precision == "bf16",
                use_cpu=accelerator.device.type == "cpu",
                accelerator_config={"use_configured_state": True},  # else it forgets the processes, ours too
                ddp_find_unused_parameters=False,
                seed=training.seed,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_list([row(p) for p in prompts]),
            processing_class=tokenizer,
            callbacks=[Report()],
        )
        trainer.remove_callback(_printer())
        trainer.train()


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback
