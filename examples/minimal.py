"""SRFT in one page: every step samples a group for each prompt, adds the expert's demonstration, grades, and makes one
update on the four loss terms (SRFT Eqs. 7, 8, 9, 12, 13). The full loop is `src/srft/training/loop.py`; this one has no
checkpoints, no schedules, one process, and nothing but public functions of the package.

Four simplifications, so that it can be read in a minute:
1. one update a step, so that π_old is π and nothing is scored twice;
2. one prompt length for all: a step's inputs fit one micro-batch or a few, cut by `make_micro_batches`;
3. rewards come from the verifier with its default grader;
4. the evaluation samples four responses of each problem and prints their mean reward (avg@4).

    python examples/minimal.py                       # about two minutes on two cores
    python examples/minimal.py --steps 3 --prompts 4
"""

from __future__ import annotations

import argparse

import torch

from srft import Responses, Tokens, get_method
from srft.data import TEMPLATES, load_problems, tokenize_problems
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, load_model, load_tokenizer, pad_token_id
from srft.policy.micro_batch import make_micro_batches
from srft.rollout.collector import Collector
from srft.rollout.engine import SamplerSettings, make_sampler
from srft.rollout.response import Group, Response
from srft.rollout.sampler import SamplingParams
from srft.training.prompt_stream import PromptStream
from srft.verify import Verifier

NEEDS = frozenset({"rollouts", "demonstrations"})
LENGTH = 160  # tokens of a response, at most
OPTIONS = {"scale_sft": 1.0, "scale_rl": 1.0, "rollout_signal": "advantage"}  # as in the recipe `quickstart`


def table(responses: list[Response], step: int) -> Responses:
    """Every response of the step: what the terms count and the advantages compare."""
    return Responses(
        reward=torch.tensor([r.reward for r in responses]),
        group=torch.tensor([r.group_id for r in responses]),
        is_demo=torch.tensor([r.is_demo for r in responses]),
        length=torch.tensor([len(r.token_ids) for r in responses]),
        limit=LENGTH,
        step=step,
    )


def update(policy: Policy, optimizer: torch.optim.Optimizer, responses: list[Response], step: int, pad: int) -> float:
    """One optimizer step on all responses. Returns the loss."""
    srft, whole, total = get_method("srft"), table(responses, step), 0.0
    policy.train()
    for batch in make_micro_batches([r.model_input(row) for row, r in enumerate(responses)], 16384, pad):
        values = policy(batch)
        terms = srft(Tokens(values.logp, values.entropy, batch.row, whole), **OPTIONS)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=16, help="prompts of a step")
    parser.add_argument("--rollouts", type=int, default=8, help="rollouts of a prompt")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--problems", type=int, default=100, help="of the evaluation")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    settings = ModelSettings(path="srft:model")
    tokenizer, policy = load_tokenizer(settings), Policy(load_model(settings))
    pad, template = pad_token_id(tokenizer), TEMPLATES["chat"]
    lengths = {"max_prompt_length": 96, "max_response_length": LENGTH}
    problems = load_problems("srft:arithmetic/train.jsonl")
    train = tokenize_problems(problems, tokenizer, template=template, **lengths).prompts
    held_out = load_problems("srft:arithmetic/test.jsonl", limit=arguments.problems)
    test = tokenize_problems(held_out, tokenizer, template=template, **lengths).prompts

    optimizer = torch.optim.AdamW(policy.parameters(), lr=arguments.lr, weight_decay=0.0)
    sampler = make_sampler(SamplerSettings(), policy, settings, tokenizer, max_model_len=96 + LENGTH)
    sampling = SamplingParams(n=arguments.rollouts, temperature=1.0, max_response_length=LENGTH)
    with Verifier() as verifier:
        collector = Collector(sampler, verifier.grade, tokenizer, seed=0)

        def avg_at_4() -> float:
            four = sampling.model_copy(update={"n": 4})
            answers = collector.sample([Group(i, prompt) for i, prompt in enumerate(test)], four, "evaluation")
            return sum(r.reward for r in answers) / len(answers)

        print(f"before: avg@4 {avg_at_4():.3f}")
        stream = PromptStream(train, seed=0)
        for step in range(1, arguments.steps + 1):
            groups = [Group(i, prompt) for i, prompt in enumerate(stream.draw(arguments.prompts))]
            responses = collector.collect(groups, NEEDS, sampling, demonstrations=1, step=step)
            loss = update(policy, optimizer, responses, step, pad)
            policy.sync(sampler)
            rewards = [r.reward for r in responses if not r.is_demo]
            print(f"step {step}: reward {sum(rewards) / len(rewards):.3f}, loss {loss:.3f}")
        print(f"after: avg@4 {avg_at_4():.3f}")


if __name__ == "__main__":
    main()
