"""The loop, its plan and its run directory."""

from srft.training.plan import Plan, Size, estimate, make_plan
from srft.training.run import Run, train
from srft.training.run_dir import RunDir

__all__ = ["Plan", "Run", "RunDir", "Size", "estimate", "make_plan", "train"]
