"""Evaluation: the papers' benchmarks, their protocols and metrics, results that survive a kill."""

from srft.evaluation.benchmarks import BENCHMARKS, Benchmark, Choice, choose
from srft.evaluation.load import Source, load_benchmark
from srft.evaluation.metrics import bootstrap, maj_at_k, pass_at_k, summarise

__all__ = [
    "BENCHMARKS", "Benchmark", "Choice", "Source", "bootstrap", "choose", "load_benchmark", "maj_at_k", "pass_at_k",
    "summarise",
]  # fmt: skip
