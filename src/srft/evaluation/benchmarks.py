"""The benchmarks of the papers, one entry each: where it comes from, how a row becomes a problem, how it is scored."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from srft.data.problem import Problem
from srft.data.read import file_format
from srft.data.settings import Columns
from srft.errors import SrftError, did_you_mean
from srft.evaluation import rows as read
from srft.evaluation.rows import Question, Row
from srft.section import check_file_name

Measure = Literal["answers", "loss", "both"]  # of a set of the user's own


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        hub: data set id; `config` and `split` of it.
        revision: the commit that is read; None where none is pinned, then the result says which one was.
        file: its name in `--data-dir`, as its authors or well-known repositories publish it.
        rows: problems it has; anything else is an error.
        adapt: a row as a question.
        prepare: file or hub rows before they are adapted: flattened, or without those that do not count.
        grader: the verifier's grader, or "ifeval".
        samples: by protocol; 1 where a protocol is left out.
        metric: what its score is.
        max_response_length: by protocol, where the paper gives this benchmark another one (tokens).
    """

    hub: str
    file: str
    rows: int
    adapt: Callable[[Row], Question]
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    prepare: Callable[[Sequence[Any]], Sequence[Row]] = read.as_they_are
    grader: Literal["math", "choice", "ifeval"] = "math"
    samples: Mapping[str, int] = field(default_factory=dict)
    metric: str = "accuracy"
    max_response_length: Mapping[str, int] = field(default_factory=dict)


FEW: Mapping[str, int] = {"srft": 32, "psft": 32}  # small sets: avg@32 in both papers
SOME: Mapping[str, int] = {"srft": 1, "psft": 8}  # pass@1 in SRFT, avg@8 in PSFT

BENCHMARKS: Mapping[str, Benchmark] = {
    "aime24": Benchmark(
        "HuggingFaceH4/aime_2024", "aime24.jsonl", 30, read.aime, split="train", samples=FEW,
        revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    ),
    "aime25": Benchmark(
        "math-ai/aime25", "aime25.jsonl", 30, read.aime, samples=FEW,
        revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
    ),
    "amc": Benchmark("AI-MO/aimo-validation-amc", "amc83.jsonl", 83, read.mathematics, split="train", samples=FEW),
    "math500": Benchmark(
        "HuggingFaceH4/MATH-500", "math500.jsonl", 500, read.mathematics, samples=SOME,
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
    ),
    "minerva": Benchmark("math-ai/minervamath", "minerva_math.jsonl", 272, read.mathematics, samples=SOME),
    "olympiadbench": Benchmark(
        "Hothan/OlympiadBench", "olympiadbench_qwen.jsonl", 674, read.mathematics, config="OE_TO_maths_en_COMP",
        split="train", prepare=read.without_the_675th, samples=SOME,
    ),
    "arc-c": Benchmark(
        "allenai/ai2_arc", "arc_challenge_test.parquet", 1172, read.arc, config="ARC-Challenge", grader="choice",
        samples=SOME, revision="210d026faf9955653af8916fad021475a3f00453",
    ),
    "gpqa-diamond": Benchmark(  # its authors ask that it is never shown in plain text: from the hub, after their terms
        "Idavidrein/gpqa", "gpqa_diamond.csv", 198, read.gpqa, config="gpqa_diamond", split="train", grader="choice",
        samples=SOME,
    ),
    "mmlu-pro": Benchmark(
        "TIGER-Lab/MMLU-Pro", "mmlu_pro_test.parquet", 12032, read.with_options, grader="choice",
        revision="b189ec765aa7ed75c8acfea42df31fdae71f97be",
    ),
    "truthfulqa": Benchmark(
        "truthfulqa/truthful_qa", "truthfulqa_v1_mc_task.json", 817, read.truthfulqa, config="multiple_choice",
        split="validation", grader="choice", samples=SOME, metric="accuracy on the mc1 options, generated",
        revision="741b8276f2d1982aa3d5b832d3ee81ed3b896490",
    ),
    "supergpqa": Benchmark(
        "m-a-p/SuperGPQA", "SuperGPQA-all.jsonl", 26529, read.with_options, split="train", grader="choice",
    ),
    "headqa": Benchmark(
        "EleutherAI/headqa", "headqa_en_test.json", 2742, read.headqa, config="en", prepare=read.exams, grader="choice",
    ),
    "ifeval": Benchmark(
        "google/IFEval", "ifeval_input_data.jsonl", 541, read.ifeval, split="train", grader="ifeval", samples=SOME,
        metric="prompt-level accuracy, loose", max_response_length={"psft": 4096},
        revision="966cd89545d6b6acfd7638bc708b98261ca58e84",
    ),
    "gsm8k": Benchmark(
        "openai/gsm8k", "gsm8k_test.jsonl", 1319, read.gsm8k, config="main",
        revision="740312add88f781978c0658806c59bc2815b9866",
    ),
}  # fmt: skip

GROUPS: Mapping[str, Sequence[str]] = {
    "srft": ("aime24", "amc", "math500", "minerva", "olympiadbench", "arc-c", "gpqa-diamond", "mmlu-pro"),
    "psft": (
        "aime24", "aime25", "amc", "math500", "olympiadbench", "minerva",
        "gpqa-diamond", "arc-c", "truthfulqa", "mmlu-pro", "supergpqa", "headqa", "ifeval",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A benchmark as asked for, or a file of problems of the user's own.

    Args:
        name: of the benchmark; for a file its stem.
        limit: only the first so many problems.
        path: the file, or whatever else `load_problems` reads.
        samples: of each problem; None leaves it to the protocol.
        split, options, columns: of what `path` names, as `load_problems` takes them.
        measure: see `EvaluationSet`; None: as the caller's default is.
    """

    name: str
    limit: int | None = None
    path: str | None = None
    samples: int | None = None
    split: str = "test"
    options: Mapping[str, Any] = field(default_factory=dict)
    columns: Columns = field(default_factory=Columns)
    measure: Measure | None = None

    @property
    def benchmark(self) -> Benchmark | None:
        """The table's entry; None for a file."""
        return None if self.path else BENCHMARKS[self.name]


def choose(names: str | Sequence[str], limit: int | None = None) -> list[Choice]:
    """What `gsm8k:200x4`, `math500` and `mine.jsonl` ask for: 200 problems with 4 samples each, then whole ones. `srft`
    and `psft` are the papers' own lists.

    Args:
        names: a string has commas between them.
        limit: of problems, for names without one of their own.

    Raises:
        SrftError: an unknown benchmark, or one named twice.
    """
    choices: dict[str, Choice] = {}
    for part in filter(None, (p.strip() for p in (names.split(",") if isinstance(names, str) else names))):
        match = re.fullmatch(r"(.+?)(?::([1-9]\d*))?(?:x([1-9]\d*))?", part, re.DOTALL)
        assert match is not None
        word, number = match[1], int(match[2]) if match[2] else limit
        samples = int(match[3]) if match[3] else None
        if word in GROUPS:
            chosen = [Choice(name, number, samples=samples) for name in GROUPS[word]]
        elif word in BENCHMARKS:
            chosen = [Choice(word, number, samples=samples)]
        elif "/" in word or file_format(Path(word)):
            chosen = [Choice(_file_stem(word), number, word, samples)]
        else:
            raise SrftError(
                f"unknown benchmark '{word}'", where="--benchmarks", fix=did_you_mean(word, [*BENCHMARKS, *GROUPS])
            )
        for choice in chosen:
            if choice.name in choices:
                raise SrftError(f"'{choice.name}' is named twice", where="--benchmarks", fix="Name it once.")
            choices[choice.name] = choice
    if not choices:
        raise SrftError("no benchmark named", where="--benchmarks", fix=f"Known: {', '.join([*BENCHMARKS, *GROUPS])}.")
    return list(choices.values())


def _file_stem(path: str) -> str:
    try:
        return check_file_name(Path(path).stem)
    except ValueError as error:
        fix = "Rename it, or give it a name in evaluation.sets."
        raise SrftError(str(error), where=f"--benchmarks {path}", fix=fix) from None


def to_problem(name: str, row: Row, index: int, where: str, seed: int) -> Problem:
    """A row as a problem, its options in an order that `seed`, the benchmark and the row's number decide.

    Raises:
        SrftError: the row lacks a column, or names no right option.
    """
    benchmark = BENCHMARKS[name]
    try:
        question = benchmark.adapt(row)
    except (KeyError, ValueError, TypeError, IndexError, StopIteration) as error:
        raise SrftError(
            f"the row does not have {name}'s columns: {type(error).__name__} {error}",
            where=where,
            fix=f"Use the file as its authors publish it (hub: {benchmark.hub}).",
        ) from None
    metadata: Mapping[str, Any] = dict(row) if benchmark.grader == "ifeval" else {}
    text, answer = question.text, question.answer
    if question.options:
        asked = read.ask(question, seed, name, index)
        text, answer, metadata = asked.text, asked.letter, {"options": asked.options}
    return Problem(text, answer.strip(), source=name, grader=benchmark.grader, metadata=metadata, where=where)
