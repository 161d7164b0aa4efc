"""The best checkpoint by `training.best`: whether there will be such a metric, and keeping it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from srft.errors import SrftError, did_you_mean
from srft.evaluation.metrics import metric_names
from srft.evaluation.task import EvaluationTask
from srft.processes import first
from srft.training.metrics import METRICS
from srft.training.run_dir import RunDir
from srft.training.settings import BestSettings, TrainingSettings


def check_best(best: BestSettings | None, tasks: Sequence[EvaluationTask]) -> None:
    """Return nothing where the metric is one of a step's, or one number of an evaluation's.

    Raises:
        SrftError: it is neither.
    """
    if best is None:
        return
    known = [
        f"{task.name}/{name}"
        for task in tasks
        for name in metric_names(task.params.n, sampled=bool(task.groups), held_out=bool(task.held_out))
    ]
    begins = tuple(name.partition("<")[0] for name in METRICS if "<" in name)
    if best.metric not in known and best.metric not in METRICS and not best.metric.startswith(begins):
        fix = did_you_mean(best.metric, [*known, *METRICS])
        raise SrftError(f"there will be no metric '{best.metric}'", where="training.best.metric", fix=fix)


def keep_best(
    run_dir: RunDir, training: TrainingSettings, step: int, accelerator: Accelerator, save: Callable[[], None]
) -> None:
    """Keep the checkpoint of a step where it is the best so far.

    Args:
        step: of the run, from 1.
        save: makes its checkpoint.
    """
    best = training.best
    if best is None:
        return
    value = run_dir.value_at(step, best.metric) if accelerator.is_main_process else None
    known = run_dir.best
    before = known["value"] if known.get("metric") == best.metric else None
    (is_better,) = broadcast_object_list([value is not None and best.is_better(value, before)])
    if not is_better:
        return
    save()

    def keep() -> None:
        assert value is not None
        run_dir.set_best(step, best.metric, value)
        run_dir.keep_checkpoints(training.keep_checkpoints)

    first(accelerator, keep)
