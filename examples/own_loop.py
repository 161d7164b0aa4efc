"""SRFT in a training loop of your own: a transformers model that samples by `generate`, a torch optimizer, and of srft
only the verifier that grades and the method that gives the loss.

    python examples/own_loop.py                  # the embedded 1.6 M-parameter model, about a minute on one core
    python examples/own_loop.py --model Qwen/Qwen2.5-0.5B-Instruct --data mine.jsonl
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from srft import Responses, Tokens, srft
from srft.data import Problem, load_problems, resolve_path
from srft.verify import Verifier


@dataclass
class Row:
    """A response to a prompt, both as token ids; those of one `group` answer the same prompt."""

    prompt: Tensor
    response: Tensor
    group: int
    is_demo: bool


def sample(model: Any, tokenizer: Any, problems: list[Problem], n: int, length: int) -> list[Row]:
    """`n` rollouts and the demonstration of each problem."""
    chats = [[{"role": "user", "content": problem.prompt}] for problem in problems]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    inputs = tokenizer(texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    model.eval()
    drawn = model.generate(
        **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=length, num_return_sequences=n
    )[:, inputs["input_ids"].shape[1] :]
    rows = []
    for group, problem in enumerate(problems):
        prompt = inputs["input_ids"][group][inputs["attention_mask"][group].bool()]
        for ids in drawn[group * n : (group + 1) * n]:
            ends = (ids == tokenizer.eos_token_id).nonzero()
            rows.append(Row(prompt, ids[: ends[0] + 1] if len(ends) else ids, group, is_demo=False))
        expert = tokenizer(problem.demonstrations[0] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        rows.append(Row(prompt, torch.tensor(expert), group, is_demo=True))
    return rows


def tokens(model: Any, rows: list[Row], responses: Responses) -> Tokens:
    """log π and entropy of every response token, by one forward pass over all rows, padded on the right."""
    ids = pad_sequence([torch.cat([row.prompt, row.response]) for row in rows], batch_first=True)
    place = torch.arange(ids.shape[1])
    begin = torch.tensor([len(row.prompt) for row in rows])[:, None]
    is_response = (place >= begin) & (place < begin + responses.length[:, None])
    logits = model(input_ids=ids).logits[:, :-1][is_response[:, 1:]]  # of the token after each place
    log_probs = logits.log_softmax(-1)  # (response tokens, vocabulary)
    logp = log_probs.gather(1, ids[is_response][:, None])[:, 0]
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return Tokens(logp, entropy, is_response.nonzero()[:, 0], responses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="srft:model")
    parser.add_argument("--data", default="srft:arithmetic/train.jsonl")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=8, help="prompts of a step")
    parser.add_argument("--rollouts", type=int, default=4, help="rollouts of a prompt")
    parser.add_argument("--length", type=int, default=160, help="tokens of a response, at most")
    parser.add_argument("--lr", type=float, default=5e-4)
    a = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(a.model))
    model = AutoModelForCausalLM.from_pretrained(resolve_path(a.model), dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=a.lr, weight_decay=0.0)
    problems, draw = load_problems(a.data), random.Random(0)
    with Verifier() as verifier:
        for step in range(1, a.steps + 1):
            chosen = draw.sample(problems, a.prompts)
            rows = sample(model, tokenizer, chosen, a.rollouts, a.length)
            texts = [tokenizer.decode(row.response, skip_special_tokens=True) for row in rows]
            grades = verifier.grade([(chosen[row.group], text) for row, text in zip(rows, texts, strict=True)])
            responses = Responses(
                reward=torch.tensor([grade.reward for grade in grades]),
                group=torch.tensor([row.group for row in rows]),
                is_demo=torch.tensor([row.is_demo for row in rows]),
                length=torch.tensor([len(row.response) for row in rows]),
                limit=a.length,
                step=step,
            )
            model.train()
            # the options are those of the recipe `quickstart`
            terms = srft(tokens(model, rows, responses), scale_sft=1.0, scale_rl=1.0, rollout_signal="advantage")
            loss = torch.stack(list(terms.values())).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            reward = responses.reward[~responses.is_demo].mean()
            print(f"step {step}: reward {reward:.3f}, loss {loss.detach():.3f}")


if __name__ == "__main__":
    main()
