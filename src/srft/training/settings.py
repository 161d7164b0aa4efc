"""The sections of a recipe that the training loop reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from srft.evaluation.settings import EvaluationSettings
from srft.policy.placement import DeviceName, Precision
from srft.section import FileName, Section
from srft.training.disk import DiskFull


class PplShaping(Section):
    """Confident responses count for more."""

    alpha: float = Field(0.01, ge=0, description="strength (study §4.3: 0.01)")


class PositionShaping(Section):
    """The end of a response counts for more."""

    alpha: float = Field(0.1, ge=0, description="strength (study §4.3: 0.1)")
    steps: tuple[int, int] | None = Field(None, description="between the two, both left out; released code: [200, 300]")


class AdvantageSettings(Section):
    """Changes to the advantage of rollouts, of any method that has one (exploration study, §4.3)."""

    ppl: PplShaping | None = None
    position: PositionShaping | None = None


class OptimSettings(Section):
    """The optimizer (AdamW) and its schedule."""

    lr: float = Field(1e-6, gt=0, description="learning rate (SRFT App. B: 1e-6)")
    auxiliary_lr: float | None = Field(None, gt=0, description="of the critic or the reward model; lr if left out")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of lr; linear and cosine fall to 0 (SRFT App. B: constant for RL, linear for SFT)"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which lr rises (SRFT App. B, SFT: 0.1)")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's (PSFT: 0.1)")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's (PyTorch's default)")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped at this norm (transformers' default)")
    updates_per_batch: int = Field(1, gt=0, description="optimizer updates on each batch of rollouts")

    @property
    def schedule_name(self) -> str:
        """transformers' name of the schedule; a constant one has its warm-up too."""
        return "constant_with_warmup" if self.schedule == "constant" else self.schedule


class BestSettings(Section):
    """Which checkpoint is the best one."""

    metric: str = Field(
        description="one of an evaluation, `SET/avg` or `SET/demo_nll`, or of a step, such as `reward`: docs/metrics.md"
    )
    mode: Literal["max", "min"] = Field("max", description="whether more or less of it is better")

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether a value is a new best; nan is none."""
        if than is None:
            return value == value
        return value > than if self.mode == "max" else value < than


class TrainingSettings(Section):
    """How long, in which portions, and where."""

    steps: int | None = Field(None, ge=0, description="batches of prompts; in place of epochs (SRFT App. B: 500)")
    epochs: float | None = Field(None, gt=0, description="in place of steps")
    prompts_per_step: int = Field(128, gt=0, description="prompts of a batch (SRFT App. B: 128)")
    tokens_per_micro_batch: int = Field(
        16384,
        gt=0,
        description="tokens of one forward pass: a shared prompt counts once and padding not at all, unless the model "
        "cannot be packed; about 2048 is best on a CPU",
    )
    precision: Precision = Field("auto", description="auto: bf16 autocast on CUDA, else fp32")
    device: DeviceName = Field("auto", description="auto: a GPU where there is one")
    shard: bool | None = Field(
        None,
        description="spread weights, gradients and optimizer over the processes (FSDP2); "
        "if left out, where several GPUs train and one cannot hold them",
    )
    offload: bool = Field(False, description="keep what is sharded in the CPU's memory while a GPU computes")
    seed: int = Field(0, description="of everything that is drawn")
    checkpoint_every: int = Field(0, ge=0, description="steps; 0: by time, at the end and when interrupted")
    checkpoint_minutes: float = Field(10.0, ge=0, description="since the last checkpoint; 0: not by time")
    keep_checkpoints: int = Field(2, gt=0, description="of the newest ones; the best one is kept besides")
    checkpoint_async: bool = Field(
        False, description="copy a checkpoint into memory, and write it while the run goes on; not where it is sharded"
    )
    disk_full: DiskFull = Field("stop", description="end the run with its last checkpoint whole, or wait for room")
    best: BestSettings | None = Field(None, description="keep the checkpoint that is best by a metric")

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSettings:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give one of `steps` and `epochs`")
        return self

    @model_validator(mode="after")
    def _written_by_one_process(self) -> TrainingSettings:
        if self.checkpoint_async and self.shard:
            raise ValueError("`checkpoint_async` is of one process that writes, and of what is sharded all do")
        return self

    @model_validator(mode="after")
    def _offload_what_is_sharded(self) -> TrainingSettings:
        if self.offload and self.shard is False:
            raise ValueError("`offload` moves shards to the CPU's memory, and `shard` is false")
        return self


class TrainingEvaluation(EvaluationSettings):
    """What `srft eval` reads, and when a run evaluates."""

    every: int = Field(0, ge=0, description="steps; 0: only before and after")
    at_start: bool = Field(True, description="before the first step too")


class SelectionSettings(Section):
    """The policy's own graded samples in place of the data's demonstrations, drawn before the stage begins."""

    keep: Literal["correct", "noise", "entropy", "rbf", "noise+rbf", "pairs"] = Field(
        "correct", description="right samples; with wrong ones among them; highest entropy or branching factor; pairs"
    )
    n: int = Field(8, gt=0, description="samples per prompt")
    top: float = Field(0.5, gt=0, le=1, description="share of a prompt's right samples kept by entropy or rbf")
    noise: float = Field(0.05, ge=0, lt=1, description="share of wrong samples in what is kept (study §4.2: 0.05)")


class LoggingSettings(Section):
    """What is shown and kept of a run."""

    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field([], description="that get the metrics too")
    project: FileName = Field("srft", description="of the trackers")
    samples_every: int = Field(10, ge=0, description="steps between shown completions; 0: never")
    rollouts: bool = Field(True, description="write every sampled rollout with its reward")
