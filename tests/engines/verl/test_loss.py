"""verl's batch and the loss of its workers against the local updater, with a plain forward pass in verl's place."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("tensordict", reason="tensordict is not installed: scripts/setup test")

from srft.engines.verl.batch import by_row, shared_out, to_verl
from srft.engines.verl.loss import SUMS, Loss
from srft.objective import get_method
from srft.objective.tokens import Responses
from srft.policy.micro_batch import ModelInput
from srft.training.metrics import TokenSums

ALONE = SimpleNamespace(num_processes=1, device=torch.device("cpu"), reduce=lambda x, how: x)


def inputs_of(lengths: list[tuple[int, int]]) -> list[ModelInput]:
    sizes = enumerate(lengths)
    return [ModelInput(tuple(range(2, 2 + p)), tuple(range(20, 20 + n)), row) for row, (p, n) in sizes]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_outputs_come_back_to_the_rows_they_belong_to(ranks: int) -> None:
    inputs = inputs_of([(3, 2), (1, 4), (2, 1), (5, 3), (2, 2)])
    shared = shared_out(inputs, ranks)
    assert len(shared) % ranks == 0
    data = to_verl(shared)
    said = torch.nested.as_nested_tensor(  # the output at a position is the token that it predicts
        [x.roll(-1).float() for x in data["input_ids"].unbind()], layout=torch.jagged
    )
    rows = by_row(said, shared, len(inputs))
    assert [row.long().tolist() for row in rows] == [list(x.response_ids) for x in inputs]


def test_parts_have_about_as_many_tokens() -> None:
    inputs = inputs_of([(5, n) for n in (90, 10, 80, 20, 70, 30, 60, 40)])
    shared = shared_out(inputs, 4)
    totals = [sum(map(len, shared[i : i + 2])) for i in range(0, 8, 2)]
    assert max(totals) - min(totals) < 50


def output_of(model: Any, data: Any, loss: Loss) -> dict[str, Tensor]:
    """What verl's workers compute at every position, at the sequence's temperature: log π of the next token, entropy,
    and what the loss makes of the logits."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    for ids, temperature in zip(data["input_ids"].unbind(), data["temperature"], strict=True):
        logits = model(ids[None]).logits.float() / temperature
        full = logits[0].log_softmax(-1)
        found["log_probs"].append(full.gather(-1, ids.roll(-1)[:, None])[:, 0])
        found["entropy"].append(-(full.exp() * full).sum(-1))
        for name, x in loss(student_logits=logits, data=data).items():
            found[name].append(x[0])
    return {name: torch.nested.as_nested_tensor(parts, layout=torch.jagged) for name, parts in found.items()}


@pytest.mark.parametrize("cut", [1, 2, 6], ids=lambda n: f"{n} micro-batches")
@pytest.mark.parametrize("name", ["srft", "sft", "gem", "grpo", "luffy", "psft", "hpt", "sft+rl"])
def test_terms_do_not_depend_on_the_cut_nor_on_sequences_that_do_not_count(model: Any, name: str, cut: int) -> None:
    inputs = inputs_of([(3, 2), (3, 4), (3, 1), (4, 3), (4, 2)])
    table = Responses(
        reward=torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]),
        group=torch.tensor([0, 0, 0, 1, 1]),
        is_demo=torch.tensor([False, False, True, False, True]),
        length=torch.tensor([len(x.response_ids) for x in inputs]),
        limit=16,
    )
    options = get_method(name).defaults()
    terms = []
    for count in (1, cut):
        shared, sums = shared_out(inputs, 6), TokenSums()  # one sequence does not count
        model.zero_grad()
        for i in range(count):
            data = to_verl(shared[i::count], table=table, dp_size=1)
            function = Loss(name, None, options)
            loss, found = function(output_of(model, data, function), data)
            loss.backward()
            sums += found[SUMS]
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        terms.append((sums.metrics(ALONE), gradient))
    (whole, g), (parts, h) = terms
    assert whole == pytest.approx(parts, abs=1e-5, rel=1e-5)
    torch.testing.assert_close(g, h, rtol=1e-4, atol=1e-5)
    assert g.abs().max() > 0
