"""Which recipes verl can carry out. Every key of a recipe is read in this process, translated for verl, or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from srft.data.load import resolve_path
from srft.errors import SrftError
from srft.objective.registry import Need
from srft.policy.adapters import has_adapters
from srft.recipe.schema import Recipe
from srft.rollout.samplers.server import ServerSampler
from srft.rollout.samplers.vllm import VllmSampler
from srft.training.selection import needs_scores

NEEDS: frozenset[Need] = frozenset({"demonstrations", "rollouts", "old_logp", "means", "reference"})

# Keys (or the sections above them) that this process reads as in any other run.
READ_HERE = (
    "name", "data", "verify", "method", "advantage", "hooks", "logging", "evaluation",
    "rollout.n", "rollout.demonstrations", "rollout.demo_slots", "rollout.prompting", "rollout.temperature",
    "rollout.top_p", "rollout.correction", "rollout.correction_cap",
    "optim.lr", "optim.schedule", "optim.warmup", "optim.updates_per_batch",
    "training.steps", "training.epochs", "training.prompts_per_step", "training.checkpoint_every",
    "training.checkpoint_minutes", "training.keep_checkpoints", "training.best", "training.disk_full", "training.seed",
)  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """What a recipe may not ask of verl.

    Args:
        key: of the recipe.
        asked: whether a recipe, or one of its stages, asks for it.
        why: in one sentence.
        fix: what to do.
    """

    key: str
    asked: Callable[[Recipe], bool]
    why: str
    fix: str


REFUSALS = (
    Refusal(
        "model.quantization",
        lambda r: r.model.quantization is not None,
        "it trains whole weights",
        "Set model.quantization=null.",
    ),
    Refusal("model.lora", lambda r: r.model.lora is not None, "it trains whole weights", "Set model.lora=null."),
    Refusal(
        "model.revision",
        lambda r: r.model.revision is not None,
        "verl loads the newest revision of a model",
        "Download that revision and give its folder as model.path.",
    ),
    Refusal(
        "model.path",
        lambda r: r.model.path.endswith(".gguf") or has_adapters(Path(resolve_path(r.model.path))),
        "verl reads whole weights in Hugging Face format alone",
        "Save the model in that format first.",
    ),
    Refusal(
        "rollout.engine",
        lambda r: r.rollout.engine not in ("auto", "vllm"),
        "verl samples by its own vLLM servers",
        "Set rollout.engine=auto.",
    ),
    Refusal(
        "rollout.server",
        lambda r: bool(r.rollout.options(ServerSampler).urls),
        "verl starts vLLM servers of its own",
        "Leave rollout.server out.",
    ),
    Refusal(
        "rollout.vllm.lora",
        lambda r: r.rollout.options(VllmSampler).lora != "merged",
        "it trains whole weights",
        "Leave it out.",
    ),
    Refusal(
        "training.shard",
        lambda r: r.training.shard is False,
        "its workers shard the policy",
        "Leave it out.",
    ),
    Refusal(
        "training.device",
        lambda r: r.training.device != "auto",
        "verl computes where Ray's workers are",
        "Set training.device=auto.",
    ),
    Refusal(
        "training.checkpoint_async",
        lambda r: r.training.checkpoint_async,
        "its workers write their own shards",
        "Leave it out.",
    ),
    Refusal(
        "hooks.buffer",
        lambda r: getattr(r.hooks, "buffer", None) is not None,
        "verl's workers have one optimizer, and the buffer needs its own",
        "Set hooks.buffer=null.",
    ),
    Refusal(
        "evaluation.statistics",
        lambda r: r.evaluation.statistics,
        "they need the logits, which verl's workers keep",
        "Set evaluation.statistics=false, and run `srft eval` on the checkpoint.",
    ),
    Refusal(
        "evaluation.sets",
        lambda r: any(one.measure in ("loss", "both") for one in r.evaluation.sets.values()),
        "the loss of demonstrations needs the logits, which verl's workers keep",
        "Set `measure: answers`, and run `srft eval` on the checkpoint.",
    ),
    Refusal(
        "data.selection.keep",
        lambda r: r.data.selection is not None and needs_scores(r.data.selection),
        "scoring samples by entropy or branching factor needs the logits, which verl's workers keep",
        "Keep `correct`, `noise` or `pairs`, or select with `srft select` first.",
    ),
    Refusal(
        "optim.auxiliary_lr",
        lambda r: r.optim.auxiliary_lr is not None,
        "the policy alone is trained",
        "Leave it out.",
    ),
)  # fmt: skip


def check(recipe: Recipe) -> None:
    """Return nothing where verl can carry out every stage.

    Raises:
        SrftError: naming the key, for the first thing that it cannot.
    """
    for part in recipe.parts:
        if missing := sorted(part.needs - NEEDS):
            raise SrftError(
                f"'{part.method.name}' needs what verl's workers do not give: {', '.join(missing)}",
                where="method.name",
                fix="Train it without --engine verl, or choose another method or other options of it.",
            )
        for refusal in REFUSALS:
            if refusal.asked(part):
                raise SrftError(f"not with --engine verl: {refusal.why}", where=refusal.key, fix=refusal.fix)
