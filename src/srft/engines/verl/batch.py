"""Responses as verl's batch of unpadded sequences, and its outputs back per response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NonTensorData, TensorDict
from torch import Tensor

from srft.policy.micro_batch import NOT_SAMPLED, ModelInput

NO_SEQUENCE = ModelInput((0,), (0,), row=-1)  # fills a batch up to a multiple of the ranks; none of its tokens count


def shared_out(inputs: Sequence[ModelInput], ranks: int) -> list[ModelInput]:
    """The inputs in an order whose `ranks` equal parts have about as many tokens each, with sequences that do not count
    at the end of the shorter ones."""
    missing = -len(inputs) % ranks
    ordered = sorted([*inputs, *[NO_SEQUENCE] * missing], key=lambda x: (-len(x), x.row))
    rounds = [ordered[i : i + ranks] for i in range(0, len(ordered), ranks)]
    dealt = [each[::-1] if i % 2 else each for i, each in enumerate(rounds)]  # there and back: the long ones in turn
    return [each[rank] for rank in range(ranks) for each in dealt]


def to_verl(inputs: Sequence[ModelInput], values: dict[str, Sequence[Tensor]] | None = None, **shared: Any) -> Any:
    """A TensorDict of B sequences: `input_ids` and `position_ids` over prompt and response, `loss_mask`,
    `sampler_logprobs` and the `values` over the response alone, `row` and `temperature` (B,).

    Args:
        values: per response token, by name and row of the table.
        shared: what is the same for all sequences.
    """
    fields = {
        "input_ids": _nested([torch.tensor([*x.prompt_ids, *x.response_ids]) for x in inputs]),
        "position_ids": _nested([torch.arange(len(x)) for x in inputs]),
        "loss_mask": _nested([torch.full((len(x.response_ids),), int(x.row >= 0)) for x in inputs]),
        "sampler_logprobs": _nested([_sampler_logprobs(x) for x in inputs]),
        "row": torch.tensor([max(x.row, 0) for x in inputs]),
        "temperature": torch.tensor([x.temperature for x in inputs]),
    }
    for name, by_row in (values or {}).items():
        fields[name] = _nested([by_row[x.row] if x.row >= 0 else torch.zeros(1) for x in inputs])
    batch = TensorDict(fields, batch_size=len(inputs))
    for name, value in shared.items():
        batch[name] = NonTensorData(value)
    return batch


def at_responses(output: Any, response_lengths: Tensor) -> Tensor:
    """(M,) what a model says of the M response tokens, from an output over prompts and responses: the position before
    a token predicts it."""
    ends, lengths = output.offsets()[1:].tolist(), response_lengths.tolist()
    places = [torch.arange(end - n - 1, end - 1) for end, n in zip(ends, lengths, strict=True)]
    tokens: Tensor = output.values()[torch.cat(places).to(output.device)]
    return tokens


def by_row(output: Tensor, inputs: Sequence[ModelInput], rows: int) -> list[Tensor]:
    """An output over the sequences of `inputs` as the response tokens of each row of the table, float32 on the CPU."""
    lengths = torch.tensor([len(x.response_ids) for x in inputs])
    parts = at_responses(output.cpu().float(), lengths).split(lengths.tolist())
    found = {x.row: part for x, part in zip(inputs, parts, strict=True)}
    return [found[row] for row in range(rows)]


def _nested(parts: Sequence[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(list(parts), layout=torch.jagged)


def _sampler_logprobs(x: ModelInput) -> Tensor:
    return torch.tensor(x.sampler_logprobs or [NOT_SAMPLED] * len(x.response_ids), dtype=torch.float32)
