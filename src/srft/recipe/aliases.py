"""The keys of a recipe by the names that TRL, transformers and verl give them. Light to import."""

from __future__ import annotations

from collections.abc import Mapping

from srft.recipe.fields import recipe_fields

# Another library's name, whole or its last word, in lower case with underscores: our key, or an option of `srft train`
ALIASES: Mapping[str, str] = {
    # transformers' TrainingArguments and TRL's configs
    "learning_rate": "optim.lr",
    "lr_scheduler_type": "optim.schedule",
    "lr_scheduler": "optim.schedule",
    "warmup_ratio": "optim.warmup",
    "warmup_steps": "optim.warmup",
    "adam_beta1": "optim.betas",
    "adam_beta2": "optim.betas",
    "gradient_clipping": "optim.max_grad_norm",
    "num_iterations": "optim.updates_per_batch",
    "num_train_epochs": "training.epochs",
    "num_epochs": "training.epochs",
    "max_steps": "training.steps",
    "num_steps": "training.steps",
    "batch_size": "training.prompts_per_step",
    "train_batch_size": "training.prompts_per_step",
    "generation_batch_size": "training.prompts_per_step",
    "per_device_train_batch_size": "training.prompts_per_step",
    "gradient_accumulation_steps": "training.tokens_per_micro_batch",
    "micro_batch_size": "training.tokens_per_micro_batch",
    "save_steps": "training.checkpoint_every",
    "save_total_limit": "training.keep_checkpoints",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "dtype": "training.precision",
    "torch_dtype": "training.precision",
    "fsdp": "training.shard",
    "use_cpu": "training.device",
    "eval_steps": "evaluation.every",
    "eval_on_start": "evaluation.at_start",
    "eval_dataset": "evaluation.sets",
    "report_to": "logging.trackers",
    "wandb_project": "logging.project",
    "run_name": "name",
    "output_dir": "--out",
    "resume_from_checkpoint": "--resume",
    "model_name": "model.path",
    "model_name_or_path": "model.path",
    "model_revision": "model.revision",
    "attn_implementation": "model.attention",
    "use_peft": "model.lora",
    "lora_r": "model.lora.rank",
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    "lora_target_modules": "model.lora.target_modules",
    "dataset": "data.path",
    "dataset_name": "data.path",
    "dataset_config": "data.options",
    "dataset_train_split": "data.split",
    "max_samples": "data.limit",
    "max_train_samples": "data.limit",
    "chat_template": "data.template",
    "num_generations": "rollout.n",
    "num_return_sequences": "rollout.n",
    "max_new_tokens": "rollout.max_response_length",
    "max_completion_length": "rollout.max_response_length",
    "max_tokens": "rollout.max_response_length",
    "max_length": "rollout.max_response_length",
    "max_seq_length": "rollout.max_response_length",
    "use_vllm": "rollout.engine",
    "vllm_gpu_memory_utilization": "rollout.vllm.gpu_memory",
    "vllm_server_base_url": "rollout.server.urls",
    "vllm_importance_sampling_correction": "rollout.correction",
    "vllm_importance_sampling_cap": "rollout.correction_cap",
    "reward_funcs": "verify.rewards",
    "algorithm": "method.name",
    "trainer": "method.name",
    "beta": "method.kl_weight",
    "kl_coef": "method.kl_weight",
    "epsilon": "method.clip_low",
    "epsilon_high": "method.clip_high",
    "scale_rewards": "method.advantage_std",
    "loss_type": "method.aggregation",
    "entropy_coef": "method.entropy_bonus",
    # verl's configuration
    "actor_rollout_ref.model.path": "model.path",
    "actor_rollout_ref.model.lora_rank": "model.lora.rank",
    "actor_rollout_ref.rollout.n": "rollout.n",
    "actor_rollout_ref.rollout.name": "rollout.engine",
    "gpu_memory_utilization": "rollout.vllm.gpu_memory",
    "actor_rollout_ref.actor.optim.lr": "optim.lr",
    "critic.optim.lr": "optim.auxiliary_lr",
    "ppo_mini_batch_size": "optim.updates_per_batch",
    "ppo_epochs": "optim.updates_per_batch",
    "ppo_micro_batch_size_per_gpu": "training.tokens_per_micro_batch",
    "ppo_max_token_len_per_gpu": "training.tokens_per_micro_batch",
    "clip_ratio": "method.clip_low",
    "clip_ratio_low": "method.clip_low",
    "clip_ratio_high": "method.clip_high",
    "clip_ratio_c": "method.dual_clip",
    "kl_loss_coef": "method.kl_weight",
    "entropy_coeff": "method.entropy_bonus",
    "loss_agg_mode": "method.aggregation",
    "norm_adv_by_std_in_grpo": "method.advantage_std",
    "algorithm.adv_estimator": "method.name",
    "adv_estimator": "method.name",
    "data.train_files": "data.path",
    "train_files": "data.path",
    "val_files": "evaluation.sets",
    "total_epochs": "training.epochs",
    "total_training_steps": "training.steps",
    "save_freq": "training.checkpoint_every",
    "max_actor_ckpt_to_keep": "training.keep_checkpoints",
    "test_freq": "evaluation.every",
    "val_before_train": "evaluation.at_start",
    "trainer.logger": "logging.trackers",
    "logger": "logging.trackers",
    "project_name": "logging.project",
    "experiment_name": "name",
    "default_local_dir": "--out",
    "custom_reward_function.path": "verify.function",
}


def key_of(name: str) -> str | None:
    """The key (or the option of `srft train`) that a name stands for: one of ours in any case, another library's, or
    the last word of one of ours, of several the least nested; None where there is none."""
    plain = name.lower().replace("-", "_")
    word = plain.rpartition(".")[2]
    keys = [field.key for field in recipe_fields()]
    if plain in keys:
        return plain
    ending = [key for key in keys if key.rpartition(".")[2] == word]
    nearest = min(ending, key=lambda key: key.count("."), default=None)
    return ALIASES.get(plain) or ALIASES.get(word) or nearest


def meaning(key: str) -> str:
    """The key's description; empty for a method's options, which `srft methods NAME` shows, and for options."""
    return next((field.description for field in recipe_fields() if field.key == key), "")
