"""The policy that lies in shards on verl's workers, as the loop sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import GenerationConfig, PretrainedConfig

from srft.errors import SrftError
from srft.training.checkpoint import VERL
from srft.training.checkpoint_files import state_folder

if TYPE_CHECKING:
    from srft.engines.verl.cluster import Cluster


class ShardedPolicy(nn.Module):
    """What the loop does with a policy: hand its weights to the sampler, save it.

    Args:
        cluster: whose workers hold it.
        config: of the model.
        path: of the model, a folder or a hub id.

    Attributes:
        generation_config: of the model, which says what else ends a response.
    """

    def __init__(self, cluster: Cluster, config: PretrainedConfig, path: str) -> None:
        super().__init__()
        self.cluster, self.config = cluster, config
        try:
            self.generation_config = GenerationConfig.from_pretrained(path)
        except OSError:  # it has none of its own
            self.generation_config = GenerationConfig.from_model_config(config)

    @property
    def has_dropout(self) -> bool:
        """Its log-probs differ from pass to pass in training."""
        rates = self.config.to_dict().items()
        return any(v > 0 for name, v in rates if name.endswith(("dropout", "pdrop")) and isinstance(v, float))

    def sync(self, sampler: Any) -> None:
        """Hand the present weights to verl's servers."""
        self.cluster.wake()

    def save(self, folder: Path, tokenizer: Any, weights: None = None) -> None:
        """Write weights, config and tokenizer in Hugging Face format, and beside the folder the shards of every rank
        with the optimizer's state. On several machines both are on a file system that all of them share."""
        self.cluster.sleep()
        shards = state_folder(folder.absolute()) / VERL
        self.cluster.actor_rollout_wg.save_checkpoint(str(shards), None, 0, None)
        for file in (shards / "huggingface").iterdir():
            file.rename(folder / file.name)
        (shards / "huggingface").rmdir()
        tokenizer.save_pretrained(folder)

    def load(self, checkpoint: Path, *, resume: bool) -> None:
        """Begin from a checkpoint: with its optimizer to `resume`, else from its weights alone.

        Raises:
            SrftError: it was not saved by verl, or by another number of ranks.
        """
        shards = state_folder(checkpoint.absolute()) / VERL
        if not shards.is_dir():
            fix = "Continue it without --engine verl, or start a new run with model.path at that checkpoint."
            raise SrftError("verl did not save it", where=str(checkpoint), fix=fix)
        saved = len(list(shards.glob("model_world_size_*_rank_*.pt")))
        if saved and saved != self.cluster.actor_rollout_wg.world_size:
            raise SrftError(
                f"{saved} ranks saved it, {self.cluster.actor_rollout_wg.world_size} are to read it",
                where=str(shards),
                fix="Take as many GPUs, or start a new run with model.path at that checkpoint.",
            )
        self.cluster.sleep()
        workers = self.cluster.actor_rollout_wg
        (workers.load_checkpoint if resume else workers.load_weights)(str(shards))
