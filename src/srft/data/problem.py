"""What a run is made of: a problem, its verifiable answer and an expert's demonstrations of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One prompt to train or evaluate on.

    Args:
        prompt: the question, or a chat as messages of `role` and `content` (its last one the user's); "" for
            plain text to learn from (column `text`), which is the demonstration.
        answer: the gold answer that a grader compares with.
        demonstrations: full expert responses, without the end-of-sequence token.
        rejected: a worse response than the demonstration, for methods that learn from pairs.
        source: the data set it comes from (verl's `data_source`).
        grader: the name of the grader that scores it; see docs/grading.md.
        metadata: every column of its row as it is there, for rewards; or what its grader needs (a reasoning-gym entry).
        where: file and row, for error messages.
    """

    prompt: str | tuple[Mapping[str, str], ...]
    answer: str = ""
    demonstrations: tuple[str, ...] = ()
    rejected: str = ""
    source: str = ""
    grader: str = "math"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
