"""What a policy says of sampled responses token by token: entropy, branching factor, log-prob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from srft.data.tokenize import Prompt
from srft.objective.vocabulary import branching_factor
from srft.policy.forward import Policy
from srft.policy.micro_batch import ModelInput, make_micro_batches
from srft.rollout.response import Response

TOKENS_PER_MICRO_BATCH = 16384  # of one forward pass


@dataclass(frozen=True)
class TokenStatistics:
    """Means over the tokens of one response.

    Args:
        entropy: of the distribution, nats.
        rbf: branching factor, tokens that hold 95 % of the probability.
        logp: log π of the sampled tokens, nats.
    """

    entropy: float = 0.0
    rbf: float = 0.0
    logp: float = 0.0

    def to_json(self) -> dict[str, float]:
        """As it is recorded, rounded to what a batch's shape does not change."""
        return {name: round(value, 4 if name == "rbf" else 5) for name, value in asdict(self).items()}


def measure(policy: Policy, responses: Sequence[Response], pad_token_id: int) -> list[TokenStatistics]:
    """The statistics of each response, in order, at temperature 1 whatever it was sampled with."""
    inputs = [ModelInput(r.prompt.token_ids, r.token_ids, row) for row, r in enumerate(responses)]
    return measure_inputs(policy, inputs, TOKENS_PER_MICRO_BATCH, pad_token_id)


@torch.no_grad()
def measure_inputs(
    policy: Policy, inputs: Sequence[ModelInput], max_tokens: int, pad_token_id: int
) -> list[TokenStatistics]:
    """The statistics of each input's response, by row from 0, at the input's temperature; without dropout.

    Args:
        max_tokens: of one forward pass, as `make_micro_batches` counts them.
    """
    ordered = sorted(inputs, key=lambda x: x.row)
    count = torch.tensor([max(len(x.response_ids), 1) for x in ordered], dtype=torch.float64)
    sums = torch.zeros(3, len(inputs), dtype=torch.float64)
    device = next(policy.parameters()).device
    training = policy.training
    policy.eval()
    try:
        for batch in make_micro_batches([x for x in inputs if x.response_ids], max_tokens, pad_token_id, policy.packed):
            values = policy(batch.to(device), {"rbf": branching_factor})
            for total, tokens in zip(sums, (values.entropy, values.quantities["rbf"], values.logp), strict=True):
                total.index_add_(0, batch.row, tokens.double().cpu())
    finally:
        policy.train(training)
    return [TokenStatistics(*means) for means in (sums / count).T.tolist()]


@dataclass(frozen=True)
class SummedLoss:
    """The negative log-likelihood of some demonstrations.

    Args:
        nll: sum over their tokens, nats.
        tokens: how many.
        demonstrations: how many.
    """

    nll: float
    tokens: int
    demonstrations: int


@torch.no_grad()
def summed_loss(policy: Policy, prompts: Sequence[Prompt], pad_token_id: int) -> SummedLoss:
    """Of the prompts' demonstrations, end-of-sequence tokens included, at temperature 1 and without dropout."""
    pairs = [(prompt.token_ids, d.token_ids) for prompt in prompts for d in prompt.demonstrations]
    inputs = [ModelInput(*pair, row) for row, pair in enumerate(pairs)]
    device, training, nll = next(policy.parameters()).device, policy.training, 0.0
    policy.eval()
    try:
        for batch in make_micro_batches(inputs, TOKENS_PER_MICRO_BATCH, pad_token_id, policy.packed):
            nll -= float(policy(batch.to(device)).logp.double().sum())
    finally:
        policy.train(training)
    return SummedLoss(nll, sum(len(x.response_ids) for x in inputs), len(inputs))
