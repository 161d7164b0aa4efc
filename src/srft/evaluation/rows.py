"""How a benchmark's rows, from the hub or as published in files, become a question, its options and its answer."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srft.seed import derive_seed
from srft.verify.answer import answer_of

Row = Mapping[str, Any]
LETTERS = string.ascii_uppercase
CHOOSE = "Answer with the letter of the right option, in \\boxed{}."


@dataclass(frozen=True)
class Question:
    """What a row asks.

    Args:
        text: the question alone.
        answer: the right answer, where there are no options.
        options: to choose from.
        right: the index of the right option.
    """

    text: str
    answer: str = ""
    options: Sequence[str] = ()
    right: int = 0


@dataclass(frozen=True)
class MultipleChoice:
    """A question with its options in a seeded order: the prompt's text, the right one's letter, the ordered options."""

    text: str
    letter: str
    options: list[str]


def ask(question: Question, *seed: int | str) -> MultipleChoice:
    """A question as a prompt, its options in the order that `seed` decides.

    Raises:
        ValueError: the right option is none of them.
    """
    options, right = question.options, question.right
    if not 0 <= right < len(options) <= len(LETTERS):
        raise ValueError(f"option {right} of {len(options)}")
    order = list(range(len(options)))
    random.Random(derive_seed("options", *seed)).shuffle(order)
    lines = [f"{LETTERS[place]}. {str(options[i]).strip()}" for place, i in enumerate(order)]
    text = "\n".join([question.text.strip(), "", *lines, "", CHOOSE])
    return MultipleChoice(text, LETTERS[order.index(right)], [options[i] for i in order])


def as_they_are(rows: Sequence[Any]) -> Sequence[Row]:
    return rows


def without_the_675th(rows: Sequence[Any]) -> Sequence[Row]:
    """OlympiadBench in Qwen's file has one row more than the 674 of the papers: its answer is a sentence."""
    return [row for row in rows if row.get("id") != 1965]


def exams(rows: Sequence[Any]) -> Sequence[Row]:
    """HEAD-QA as published nests its questions in exams."""
    if len(rows) == 1 and "exams" in rows[0]:
        return [question for exam in rows[0]["exams"].values() for question in exam["data"]]
    return rows


def mathematics(row: Row) -> Question:
    """`problem` or `question`, with an `answer`, a list of final answers, or a solution that boxes it."""
    answer = row["final_answer"] if row.get("final_answer") is not None else row.get("answer")
    if answer is None:
        answer = answer_of(row["solution"])
    if isinstance(answer, list):
        answer = ", ".join(map(str, answer))
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if answer is None or not str(answer).strip():
        raise ValueError("no answer")
    return Question(_text(row), str(answer).replace("$", ""))


def aime(row: Row) -> Question:
    """Three digits in print, perhaps with a degree sign; a number all the same."""
    digits = re.match(r"\d+", str(row["answer"]))
    if digits is None:
        raise ValueError("no number")
    return Question(_text(row), str(int(digits[0])))


def gsm8k(row: Row) -> Question:
    _, marker, value = row["answer"].rpartition("####")
    if not marker:
        raise ValueError("no #### before the value")
    return Question(row["question"], value.strip().replace(",", ""))


def arc(row: Row) -> Question:
    """The hub's columns, or verl's: a user message that lists the options."""
    if "choices" in row:
        labels = list(row["choices"]["label"])
        return Question(row["question"], options=list(row["choices"]["text"]), right=labels.index(row["answerKey"]))
    text = next(message["content"] for message in row["prompt"] if message["role"] == "user")
    question, *parts = re.split(r"^([A-E1-5])\) ", text, flags=re.MULTILINE)
    right = parts[0::2].index(row["reward_model"]["ground_truth"])
    return Question(question, options=[option.strip() for option in parts[1::2]], right=right)


def gpqa(row: Row) -> Question:
    wrong = [row[f"Incorrect Answer {i}"] for i in (1, 2, 3)]
    return Question(row["Question"], options=[row["Correct Answer"], *wrong])


def with_options(row: Row) -> Question:
    """MMLU-Pro and SuperGPQA."""
    options = list(row["options"])
    letter = row.get("answer_letter") or row["answer"]
    return Question(row["question"], options=options, right=LETTERS.index(letter))


def truthfulqa(row: Row) -> Question:
    """mc1: one option is true. The hub has lists of choices and labels, the published file a mapping."""
    targets = row["mc1_targets"]
    if "choices" in targets and "labels" in targets:
        targets = dict(zip(targets["choices"], targets["labels"], strict=True))
    return Question(row["question"], options=list(targets), right=list(targets.values()).index(1))


def headqa(row: Row) -> Question:
    answers = row["answers"]
    if isinstance(answers, Mapping):  # the hub's rows may hold columns of answers
        answers = [dict(zip(answers, values, strict=True)) for values in zip(*answers.values(), strict=True)]
    numbers = [int(answer["aid"]) for answer in answers]
    options = [answer["atext"] for answer in answers]
    return Question(row["qtext"], options=options, right=numbers.index(int(row["ra"])))


def ifeval(row: Row) -> Question:
    row["instruction_id_list"], row["kwargs"]
    return Question(row["prompt"])


def _text(row: Row) -> str:
    return str(row["problem"] if row.get("problem") is not None else row["question"])
