"""SRFT, or another method of ours, by TRL's GRPOTrainer: the last response of each group is the expert's demonstration,
and the method's coefficients stand where TRL has advantages. TRL samples, batches, updates, logs and saves.

With one update a batch the gradient of TRL's loss (type `dapo`), −Σ_t A_t · π/π_old / tokens, is that of
−Σ_t A_t · log π / tokens: A_t = tokens · c_t trains by the method. docs/your-own-method.md says for which methods.

    python examples/trl_demonstrations.py luffy   # `srft` if left out, on the embedded model; TRL 1.16
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from srft.data import Problem, load_problems
from srft.objective import Method, Responses, Tokens, coefficients, get_method
from srft.policy.load import ModelSettings, load_model, load_tokenizer
from srft.verify import Verifier

VERIFIER = Verifier()
OPTIONS = {"srft": {"scale_sft": 1.0, "scale_rl": 1.0, "rollout_signal": "advantage"}}  # as in `quickstart`


class SrftTrainer(GRPOTrainer):
    """GRPOTrainer with a method of ours; the dataset has a column `demonstration_ids`, the answer as token ids."""

    method: Method
    options: dict[str, Any]

    def _generate_single_turn(self, prompt_ids: list[Any], images: Any, fields: Any, n: int, *rest: Any) -> Any:
        asked = [ids for i, ids in enumerate(prompt_ids) if (i + 1) % n]
        drawn = iter(super()._generate_single_turn(asked, images, fields, n - 1, *rest)[0])
        return [next(drawn) if (i + 1) % n else x["demonstration_ids"] for i, x in enumerate(self.rows)], None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.rows = inputs  # each prompt as often as its group has responses
        batch = super()._generate_and_score_completions(inputs)
        ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], 1) for x in ("ids", "mask"))
        response, size = batch["completion_mask"].bool(), self.args.per_device_train_batch_size
        with torch.no_grad():
            logp, entropy, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, response.shape[1], size, compute_entropy=True
            )
        place, n = torch.arange(len(inputs), device=logp.device), self.num_generations
        reward = torch.tensor(list(self._logs["rewards"][self.reward_func_names[0]]), device=logp.device)
        limit, step = self.max_completion_length, self.state.global_step + 1
        table = Responses(reward, place // n, (place + 1) % n == 0, response.sum(1), limit, step)
        t = Tokens(logp[response], entropy[response], response.nonzero()[:, 0], table)
        weights = torch.zeros_like(logp)
        weights[response] = coefficients(self.method, t, self.options) * response.sum()
        return {**batch, "advantages": weights}


def reward(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    graded = [(Problem("", gold), text[0]["content"]) for text, gold in zip(completions, answer, strict=True)]
    return [grade.reward for grade in VERIFIER.grade(graded)]


def make_trainer(method: str = "srft", prompts: int = 16, rollouts: int = 8, **config: Any) -> SrftTrainer:
    model, tokenizer = (load(ModelSettings(path="srft:model")) for load in (load_model, load_tokenizer))
    problems = load_problems("srft:arithmetic/train.jsonl")
    experts = [tokenizer(p.demonstrations[0] + tokenizer.eos_token)["input_ids"] for p in problems]
    prompts_as_chats = [[{"role": "user", "content": p.prompt}] for p in problems]
    columns = {"prompt": prompts_as_chats, "answer": [p.answer for p in problems], "demonstration_ids": experts}
    n, defaults = rollouts + 1, {"output_dir": "runs/trl", "max_steps": 40, "learning_rate": 5e-4, "logging_steps": 1}
    batch = {"per_device_train_batch_size": n, "gradient_accumulation_steps": prompts, "num_generations": n}
    loss = {"loss_type": "dapo", "max_completion_length": 160, "bf16": False, "report_to": "none"}
    args = GRPOConfig(**{**defaults, **batch, **loss, **config})
    trainer = SrftTrainer(model, reward, args, Dataset.from_dict(columns), processing_class=tokenizer)
    trainer.method, trainer.options = get_method(method), OPTIONS.get(method, {})
    return trainer


if __name__ == "__main__":
    make_trainer(*sys.argv[1:2]).train()
