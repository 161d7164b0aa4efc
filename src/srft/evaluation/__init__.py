"""Evaluation: one evaluator for `srft train` and `srft eval`; benchmarks, protocols, metrics, and records that survive
a kill. What needs other packages or services is in `external`.

from srft.evaluation.run import evaluate
from srft.evaluation.settings import EvaluationRecipe
results = evaluate(EvaluationRecipe(model={"path": "srft:model"}, benchmarks=["gsm8k:200x4"]))
results["benchmarks"]["gsm8k"]["avg"]
"""
