"""A run whose sampler is not the policy: what is measured, how gradients are weighted, and when it stops."""

from __future__ import annotations

import gc
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console
from torch import Tensor

from srft import Run, SrftError, load_recipe, train
from srft.rollout.sampler import Sample, Sampler, SamplerContext, SampleRequest, SamplingParams
from srft.rollout.samplers import samplers
from srft.rollout.samplers.transformers import TransformersSampler

NAME = "shifted-for-test"
DIFFERENCE, RATIO = "sampling/sampling_logp_difference/mean", "sampling/importance_sampling_ratio/mean"
SMALL = [
    "training.steps=1", "training.prompts_per_step=4", "training.device=cpu", "rollout.n=4", "evaluation.sets={}",
    "rollout.max_response_length=160", "method.name=grpo", "data.limit=8", f"rollout.engine={NAME}",
]  # fmt: skip


def shifted(shift: float) -> type[Sampler]:
    """A sampler by the name NAME, as long as it is held: the policy's own samples, log-probs `shift` nats too high."""

    class Shifted(Sampler):
        name: ClassVar[str] = NAME

        def __init__(self, inner: TransformersSampler) -> None:
            self.inner = inner

        @classmethod
        def build(cls, context: SamplerContext) -> Shifted:
            return cls(TransformersSampler.build(context))

        def sample(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[list[Sample]]:
            groups = self.inner.sample(requests, params)
            return [[replace(s, logprobs=[x + shift for x in s.logprobs]) for s in group] for group in groups]

        def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
            self.inner.update_weights(weights)

        def close(self) -> None:
            self.inner.close()

    return Shifted


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Trains a step with such a sampler, which no other test knows of."""

    def trained(out: str, shift: float, *changes: str, console: Console | None = None) -> Run:
        sampler = shifted(shift)
        try:
            return train(load_recipe("quickstart", [*SMALL, *changes]), tmp_path / out, console=console)
        finally:
            del sampler
            gc.collect()

    yield trained
    gc.collect()  # what an error's traceback held
    assert NAME not in samplers()


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("shift", [0.2, -0.2])
def test_a_sampler_apart_is_measured_and_corrected(run: Callable[..., Run], shift: float, updates: int) -> None:
    """π/π_sampler of a sampler that reports too much is below 1, and the other way round; π is the policy that sampled,
    in every update of the step."""
    (row,) = run("run", shift, "rollout.correction=tis", f"optim.updates_per_batch={updates}", "optim.lr=1e-2").metrics
    assert row[DIFFERENCE] == pytest.approx(0.2, abs=1e-4)
    assert row[RATIO] == pytest.approx(math.exp(-shift), abs=1e-4)


def test_gradients_are_weighted_by_the_ratio(run: Callable[..., Run]) -> None:
    """One weight for all tokens is a factor of GRPO's gradient. Uncorrected, the run warns and the gradient is that of
    the rollouts as they are."""
    console = Console(width=200, file=io.StringIO())
    (plain,) = run("plain", -0.2, console=console).metrics
    assert "sampler and policy differ by 0.200 nats" in console.file.getvalue()
    assert RATIO not in plain
    assert plain["grad_norm"] > 0
    capped = "rollout.correction_cap=1.1"  # below exp(0.2)
    (truncated,) = run("tis", -0.2, "rollout.correction=tis", capped).metrics
    assert truncated[RATIO] == pytest.approx(1.1)
    assert truncated["grad_norm"] == pytest.approx(1.1 * plain["grad_norm"], rel=1e-3)
    (masked,) = run("mask", -0.2, "rollout.correction=mask", capped).metrics
    assert (masked[RATIO], masked["grad_norm"]) == (0, 0)


def test_another_model_stops_the_run(run: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(SrftError, match=r"differ from the policy's by 1\.00 nats"):
        run("run", 1.0, "rollout.correction=tis")
    assert not (tmp_path / "run/metrics.jsonl").exists()
    assert not (tmp_path / "run/checkpoints").exists()
