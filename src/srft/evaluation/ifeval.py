"""IFEval's scores through lm-eval's own checks (extra `lm-eval`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from srft.data.problem import Problem
from srft.errors import SrftError
from srft.verify.grade import Grade, Verdict

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
                fix="python -m nltk.downloader punkt_tab, on a machine with a network; or a lower limit.",
            ) from None


def grade(items: Sequence[tuple[Problem, str]]) -> list[Grade]:
    """The grades of response texts, in order, as `Verifier.grade` gives them."""
    return [grade_one(problem.metadata, text) for problem, text in items]


def grade_one(row: Mapping[str, Any], response: str) -> Grade:
    """The prompt-level loose verdict; in `details` the `strict` one, and those of each instruction by both
    (`instructions_loose`, `instructions_strict`). Only what follows the thinking counts.

    Args:
        row: of the benchmark.
    """
    from lm_eval.tasks.ifeval.utils import process_results

    answer = response
    if "<think>" in response:
        answer = response.rpartition("</think>")[2].strip() if "</think>" in response else ""
    kwargs = [{k: v for k, v in given.items() if v is not None} for given in row["kwargs"]]
    result = process_results({**row, "kwargs": kwargs}, [answer])
    right = bool(result["prompt_level_loose_acc"])
    details = {
        "strict": bool(result["prompt_level_strict_acc"]),
        "instructions_loose": [bool(x) for x in result["inst_level_loose_acc"]],
        "instructions_strict": [bool(x) for x in result["inst_level_strict_acc"]],
    }
    return Grade(Verdict.RIGHT if right else Verdict.WRONG, float(right), details)
