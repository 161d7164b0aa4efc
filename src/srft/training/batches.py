"""From a step's responses to the batches of its optimizer updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from srft.objective.tokens import Responses
from srft.policy.micro_batch import MicroBatch, ModelInput, make_micro_batches
from srft.processes import gather
from srft.rollout.response import Response


@dataclass(frozen=True)
class UpdateBatch:
    """What one optimizer update works on.

    Args:
        responses: the table of all its responses, S over all ranks, e.g. 16 groups of 8 rollouts and a demonstration.
        micro_batches: this rank's share of them, e.g. 3.
        fixed: by micro-batch and name, (N,) values of its tokens from before the first update on the step's responses,
            e.g. {"old_logp": [-0.1, -2.3]}.
    """

    responses: Responses
    micro_batches: Sequence[MicroBatch]
    fixed: Sequence[dict[str, Tensor]] = field(default_factory=list)


class Batcher:
    """Makes batches.

    Args:
        max_response_length: tokens.
        tokens_per_micro_batch: tokens of one forward pass, as `make_micro_batches` counts them.
        packed: the policy computes a micro-batch as one row.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        *,
        max_response_length: int,
        tokens_per_micro_batch: int,
        pad_token_id: int,
        packed: bool = False,
    ) -> None:
        self.accelerator, self.max_response_length = accelerator, max_response_length
        self.tokens_per_micro_batch, self.pad_token_id, self.packed = tokens_per_micro_batch, pad_token_id, packed

    def split(self, responses: Sequence[Response], step: int, groups: int, updates: int) -> list[UpdateBatch]:
        """One batch for each of the step's updates, each of its share of the `groups`; those without a response, which
        there are where refilling ran out of prompts, are left out, and so are rollouts that no reward applies to."""
        share, learnt = groups / updates, [r for r in responses if r.is_learnt]
        batches = [self.make([r for r in learnt if int(r.group_id / share) == i], step) for i in range(updates)]
        return [batch for batch in batches if len(batch.responses.length)]

    def make(self, responses: Sequence[Response], step: int) -> UpdateBatch:
        """One batch of this rank's `responses` and those of the other ranks."""
        mine = [(r.group_id, k, r.reward, r.is_correct, r.is_demo, len(r.token_ids)) for k, r in enumerate(responses)]
        everyone = sorted(gather(self.accelerator, mine))
        row_of = {(group_id, k): row for row, (group_id, k, *_) in enumerate(everyone)}
        table = Responses(
            reward=torch.tensor([reward for _, _, reward, *_ in everyone], dtype=torch.float32),
            right=torch.tensor([is_correct for _, _, _, is_correct, *_ in everyone], dtype=torch.bool),
            group=torch.tensor([group_id for group_id, *_ in everyone], dtype=torch.long),
            is_demo=torch.tensor([is_demo for *_, is_demo, _ in everyone], dtype=torch.bool),
            length=torch.tensor([length for *_, length in everyone], dtype=torch.long),
            limit=self.max_response_length,
            step=step,
        )
        inputs = [r.model_input(row_of[r.group_id, k]) for k, r in enumerate(responses)]
        return UpdateBatch(table, self._micro_batches(inputs))

    def _micro_batches(self, inputs: Sequence[ModelInput]) -> list[MicroBatch]:
        """This rank's, with empty ones behind until each rank has as many: a sharded network's passes are common to all
        ranks."""
        mine = make_micro_batches(inputs, self.tokens_per_micro_batch, self.pad_token_id, self.packed)
        most = max(gather(self.accelerator, [len(mine)]))
        return mine + make_micro_batches([], self.tokens_per_micro_batch, self.pad_token_id) * (most - len(mine))
