"""Writing a checkpoint: together with the other processes, or by the first one in a thread beside the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from srft.policy.sharding import is_sharded, whole_weights
from srft.processes import first, gather
from srft.training.checkpoint import save_state, save_tensors
from srft.training.disk import Disk
from srft.training.run_dir import RunDir


@dataclass(frozen=True)
class Contents:
    """What a checkpoint is written from.

    Args:
        step: of the run.
        policy: with its `save`.
        state: plain values of the trainer.
        tensors: of the trainer.
        weights: the policy's, where they are not its own.
    """

    step: int
    policy: Any
    tokenizer: Any
    state: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    weights: Mapping[str, Tensor] | None = None

    @property
    def size(self) -> int:
        """Bytes of the trained weights and of the tensors."""
        trained = [weight for weight in self.policy.parameters() if weight.requires_grad]
        return sum(x.numel() * x.element_size() for x in (*trained, *self.tensors.values()))

    def copied(self) -> Contents:
        """The same in the CPU's memory, whatever is trained on meanwhile; of a policy that is not sharded."""
        tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors, weights=whole_weights(self.policy))


class Saver:
    """Writes checkpoints one after another, on every process.

    Args:
        keep: how many of the newest stay.
    """

    def __init__(self, run_dir: RunDir, accelerator: Accelerator, disk: Disk, keep: int) -> None:
        self.run_dir, self.accelerator, self.disk, self.keep = run_dir, accelerator, disk, keep
        self._pending: tuple[Contents, Future[None]] | None = None  # what is written in a thread

    def save(self, contents: Contents, *, behind: bool = False) -> None:
        """Write a checkpoint.

        Args:
            behind: return once it is copied into memory; `wait`, or the next `save`, raises what its writing raised.

        Raises:
            SrftError: it cannot be written, or the one before could not.
        """
        self.wait()
        if not behind:
            if is_sharded(contents.policy):
                contents = replace(contents, weights=whole_weights(contents.policy))
            self._written(contents, lambda: self._write(contents, lambda act: first(self.accelerator, act)))
            return
        future: Future[None] = Future()
        future.set_result(None)
        if self.accelerator.is_main_process:
            contents = contents.copied()
            pool = ThreadPoolExecutor(1)
            future = pool.submit(self._write_alone, contents)
            pool.shutdown(wait=False)
        self._pending = contents, future

    def check(self) -> None:
        """Raise what the writing in the thread has raised, if it has ended."""
        if self._pending and gather(self.accelerator, [self._pending[1].done()])[0]:
            self.wait()

    def wait(self) -> None:
        """Return when everything is written.

        Raises:
            SrftError: it could not be.
        """
        if self._pending is None:
            return
        (contents, future), self._pending = self._pending, None
        attempts: chain[Callable[[], None]] = chain([future.result], repeat(lambda: self._write_alone(contents)))
        self._written(contents, lambda: first(self.accelerator, next(attempts)))

    def join(self) -> None:
        """Return when this process writes nothing any more, of a run that has failed."""
        if self._pending:
            wait([self._pending[1]])

    def _written(self, contents: Contents, act: Callable[[], None]) -> None:
        self.disk.write(self.run_dir.checkpoint_at(contents.step).name, act, contents.size)

    def _write_alone(self, contents: Contents) -> None:
        self._write(contents, lambda act: act(), alone=True)

    def _write(self, c: Contents, first: Callable[[Callable[[], None]], None], alone: bool = False) -> None:
        """Write all of it: what one process does by `first`, the tensors by all unless this one is `alone`."""
        folder = self.run_dir.unfinished_checkpoint(c.step)

        def begin() -> None:
            self.run_dir.begin_checkpoint(c.step)
            c.policy.save(folder, c.tokenizer, c.weights)
            save_state(folder, c.state)

        try:
            first(begin)
            save_tensors(folder, c.tensors, alone=alone)
            first(lambda: self.run_dir.finish_checkpoint(c.step, self.keep))
        except BaseException:
            if self.accelerator.is_main_process:
                with suppress(OSError):
                    self.run_dir.remove_unfinished()
            raise
