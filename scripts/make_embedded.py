"""Make everything that ships in `src/srft/embedded`: the problems, the tokenizer and the pretrained base model.

    python scripts/make_embedded.py data                      # problems and demonstrations, seconds
    python scripts/make_embedded.py model --minutes 32        # tokenizer and weights, on 2 cores (about 2,450 steps)

The task is chained arithmetic ("Start with 37, add 45, subtract 18. What is the result?"). The base model reads a
corpus of mixed quality: clean drills, and worked answers of which few are careful, most have a slip in some step,
and many just guess. So it can calculate, but its habits often do not let it: room for fine-tuning to show.
Demonstrations come from an expert that never errs and writes in another style, absent from the corpus.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

HERE = Path(__file__).resolve().parent.parent / "src/srft/embedded"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = {"+": "add", "-": "subtract", "*": "multiply by"}
Chain = tuple[int, list[tuple[str, int]]]  # the start and the operations on it


def draw_chain(rng: random.Random, length: int) -> Chain:
    """A start in 2..99 and `length` operations, every value on the way in 0..400."""
    start = value = rng.randint(2, 99)
    operations = []
    while len(operations) < length:
        sign = rng.choice("++--*")
        operand = rng.randint(2, 5) if sign == "*" else rng.randint(2, 99)
        if 0 <= (result := calculate(value, sign, operand)) <= 400:
            operations.append((sign, operand))
            value = result
    return start, operations


def calculate(value: int, sign: str, operand: int) -> int:
    return value + operand if sign == "+" else value - operand if sign == "-" else value * operand


def question(chain: Chain) -> str:
    start, operations = chain
    return f"Start with {start}, " + ", ".join(f"{WORDS[s]} {n}" for s, n in operations) + ". What is the result?"


def answer(chain: Chain) -> int:
    value = chain[0]
    for sign, operand in chain[1]:
        value = calculate(value, sign, operand)
    return value


def slip(rng: random.Random, value: int) -> int:
    return abs(value + rng.choice((-10, -2, -1, 1, 2, 10)))


def base_response(rng: random.Random, chain: Chain) -> str:
    """The base's habits: 20 % careful, 50 % with a slip in about every third step, 30 % a bare guess."""
    habit = rng.random()
    if habit > 0.7:
        return f"Answer: \\boxed{{{slip(rng, answer(chain))}}}"
    slips = 0.35 if habit > 0.2 else 0.0
    value, lines = chain[0], []
    for sign, operand in chain[1]:
        result = calculate(value, sign, operand)
        result = slip(rng, result) if rng.random() < slips else max(result, 0)
        lines.append(f"{value} {sign} {operand} = {result}")
        value = result
    return "\n".join(lines) + f"\nAnswer: \\boxed{{{value}}}"


def expert_response(chain: Chain) -> str:
    value, lines = chain[0], [f"<think>\nWe begin with {chain[0]}."]
    for number, (sign, operand) in enumerate(chain[1], 1):
        result = calculate(value, sign, operand)
        lines.append(f"Step {number}, {WORDS[sign]} {operand}: {value} {sign} {operand} = {result}.")
        value = result
    return "\n".join(lines) + f"\n</think>\nThe result is \\boxed{{{value}}}."


def drill(rng: random.Random) -> str:
    """Clean one-step sums, some with the words around them."""
    lines = []
    for _ in range(8):
        value, sign = rng.randint(0, 400), rng.choice("++--*")
        operand = rng.randint(2, 5) if sign == "*" else rng.randint(2, 99)
        result = calculate(value, sign, operand)
        if 0 <= result <= 499:
            words = f"We begin with {value}, {WORDS[sign]} {operand}: " if rng.random() < 0.1 else ""
            lines.append(f"{words}{value} {sign} {operand} = {result}")
    return "\n".join(lines)


def document(rng: random.Random) -> str:
    if rng.random() < 0.25:
        return drill(rng) + "<|endoftext|>"
    chain = draw_chain(rng, rng.choices((1, 2, 3, 4, 5, 6), (10, 25, 25, 25, 10, 5))[0])
    return (
        f"<|im_start|>user\n{question(chain)}<|im_end|>\n<|im_start|>assistant\n"
        f"{base_response(rng, chain)}<|im_end|>\n<|endoftext|>"
    )


def make_data() -> None:
    """Problems of 2 to 4 steps to train on and to hold out, of 5 and 6 steps as the out-of-distribution split."""
    rng, seen = random.Random(0), set()
    for name, count, lengths in (("train", 2000, (2, 3, 4)), ("test", 200, (2, 3, 4)), ("ood", 200, (5, 6))):
        rows = []
        while len(rows) < count:
            chain = draw_chain(rng, rng.choice(lengths))
            if (prompt := question(chain)) not in seen:
                seen.add(prompt)
                rows.append({"prompt": prompt, "completion": expert_response(chain), "answer": str(answer(chain))})
        path = HERE / "arithmetic" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{path}: {count} problems")


def make_tokenizer() -> PreTrainedTokenizerFast:
    rng = random.Random(1)
    texts = [document(rng) for _ in range(3000)] + [expert_response(draw_chain(rng, 3)) for _ in range(1000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(steps: int, minutes: float, seed: int = 2) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = make_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(tokenizer)} tokens")
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98))
    length, batch, start = 192, 64, time.time()
    for step in range(steps):
        rows = []
        for _ in range(batch):  # a row starts with a new document and holds as many as fit
            row: list[int] = []
            while len(row) < length:
                row += tokenizer(document(rng), add_special_tokens=False)["input_ids"]
            rows.append(row[:length])
        ids = torch.tensor(rows)
        # The budget is whichever ends first; the cosine follows it, so a slower machine still ends at a small rate.
        done = max(step / steps, (time.time() - start) / 60 / minutes)
        rate = 3e-3 * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}  loss {loss.item():.4f}  lr {rate:.2e}  {time.time() - start:.0f} s", flush=True)
        if step % 250 == 249 or done >= 1:
            save(model, tokenizer)
        if done >= 1:
            break
    save(model, tokenizer)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = HERE / "model"
    state = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    copy = Qwen2ForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(state)
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("data", "model"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=60)
    arguments = parser.parse_args()
    if arguments.what == "data":
        make_data()
    else:
        make_model(arguments.steps, arguments.minutes)
