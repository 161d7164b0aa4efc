"""IFEval's scores through lm-eval's own checks (extra `lm-eval`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from srft.data import Problem
from srft.errors import SrftError

NEEDS_PUNKT = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}


def check(problems: Sequence[Problem]) -> None:
    """Before anything is sampled: is everything there that scoring will need?

    Raises:
        SrftError: lm-eval's checks, or the sentence splitter's data that some of them read, are missing.
    """
    missing = [
        name for name in ("lm_eval", "langdetect", "nltk", "immutabledict") if not importlib.util.find_spec(name)
    ]
    if missing:
        raise SrftError(f"needs {', '.join(missing)}", where="ifeval", fix="pip install 'srft[lm-eval]'")
    if any(NEEDS_PUNKT & set(p.metadata["instruction_id_list"]) for p in problems):
        import nltk

        try:
            nltk.data.find("tokenizers/punkt_tab")
        except LookupError:
            raise SrftError(
                "counting sentences needs nltk's data punkt_tab",
                where="ifeval",
                fix="python -m nltk.downloader punkt_tab, on a machine with a network; or --limit.",
            ) from None


def score(row: Mapping[str, Any], response: str) -> dict[str, Any]:
    """The prompt-level loose verdict as the score, with the strict one and those of each instruction beside it. Only
    what follows the thinking counts."""
    from lm_eval.tasks.ifeval.utils import process_results

    answer = response
    if "<think>" in response:
        answer = response.rpartition("</think>")[2].strip() if "</think>" in response else ""
    kwargs = [{k: v for k, v in given.items() if v is not None} for given in row["kwargs"]]
    found = process_results({**row, "kwargs": kwargs}, [answer])
    right = bool(found["prompt_level_loose_acc"])
    return {
        "score": float(right),
        "verdict": "right" if right else "wrong",
        "strict": bool(found["prompt_level_strict_acc"]),
        "instructions_loose": [bool(x) for x in found["inst_level_loose_acc"]],
        "instructions_strict": [bool(x) for x in found["inst_level_strict_acc"]],
    }
