"""Evaluation: the papers' benchmarks, their protocols and metrics, results that survive a kill.

from srft.evaluation import Options, evaluate
results = evaluate(Options("srft:model", "gsm8k:200x4"))
results["benchmarks"]["gsm8k"]["avg"]
"""

from srft.evaluation.benchmarks import BENCHMARKS, Benchmark, Choice, choose
from srft.evaluation.load import Source, load_benchmark
from srft.evaluation.metrics import bootstrap, maj_at_k, pass_at_k, summarise
from srft.evaluation.run import evaluate
from srft.evaluation.settings import Options

__all__ = [
    "BENCHMARKS", "Benchmark", "Choice", "Options", "Source", "bootstrap", "choose", "evaluate", "load_benchmark",
    "maj_at_k", "pass_at_k", "summarise",
]  # fmt: skip
