"""A run whose numbers are no longer finite ends with an error, and such weights are never saved."""

from __future__ import annotations

from collections.abc import Iterable

from accelerate import Accelerator
from torch import nn

from srft.errors import SrftError
from srft.policy.finite import check_finite, non_finite
from srft.processes import gather
from srft.training.run_dir import RunDir

MOST_SKIPPED = 5  # updates in a row: one batch may overflow, five of them do not by chance


def check_updates(skipped: int, step: int, steps: int, run_dir: RunDir) -> None:
    """Raises SrftError where training has come to a stand.

    Args:
        skipped: updates in a row whose loss or gradient was not finite, up to `step` of the run.
        steps: of the stage, which may be few.
    """
    if skipped >= min(MOST_SKIPPED, steps):
        raise SrftError(
            f"the last {skipped} updates were skipped, as loss or gradient was NaN or infinite",
            where=f"step {step}",
            fix=f"{_last_good(run_dir)} Lower optim.lr, or set training.precision: fp32.",
        )


def check_before_saving(networks: Iterable[nn.Module], step: int, accelerator: Accelerator, run_dir: RunDir) -> None:
    """Raises SrftError, in every process, where weights that `step` of the run would save are not finite."""
    names = gather(accelerator, [name for network in networks for name in non_finite(network)])
    check_finite(names, f"step {step}", f"Nothing was saved of it. {_last_good(run_dir)} Lower optim.lr.")


def _last_good(run_dir: RunDir) -> str:
    if not run_dir.checkpoints:
        return "No checkpoint was saved before."
    return f"The last good checkpoint is {run_dir.checkpoint}: --resume continues from it."
