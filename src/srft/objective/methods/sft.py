"""Supervised methods: the expert's demonstrations alone."""

from __future__ import annotations

from srft.objective.registry import Terms, method
from srft.objective.terms import Aggregation, nll
from srft.objective.tokens import Tokens


@method("sft", needs={"demonstrations"})
def sft(t: Tokens, *, aggregation: Aggregation = "token-mean") -> Terms:
    """Supervised fine-tuning: −log π on demonstrations (SRFT Eq. 1)."""
    return {"sft": nll(t.demo, how=aggregation)}
