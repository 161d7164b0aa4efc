"""Whether `training.best` names a metric that there will be, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from srft.errors import SrftError, did_you_mean
from srft.evaluation.metrics import metric_names
from srft.evaluation.task import EvaluationTask
from srft.training.metrics import METRICS
from srft.training.settings import BestSettings


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
