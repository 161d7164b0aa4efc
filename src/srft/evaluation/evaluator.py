"""The evaluator of `srft train` and `srft eval`: samples what is not on disk yet, grades, records, scores."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from srft.evaluation import ifeval
from srft.evaluation.metrics import held_out_loss, score
from srft.evaluation.progress import Progress
from srft.evaluation.records import Record, RecordFile, open_folder
from srft.evaluation.task import EvaluationTask
from srft.evaluation.token_statistics import measure, summed_loss
from srft.policy.forward import Policy
from srft.processes import first, gather
from srft.rollout.collector import Collector
from srft.rollout.response import Group, Response
from srft.verify.answer import answer_of
from srft.verify.extract import boxed

Scores = dict[str, dict[str, Any]]  # by task, the values of `metrics.score`


class Evaluator:
    """Evaluates a policy on its tasks, on every process of the accelerator.

    Args:
        collector: samples and grades; its seed is the evaluation's.
        seed_purpose: what a task's draws are seeded by, with the collector's seed and the problem's number; {} stands
            for the task's name. Training says "evaluation {}" and `srft eval` "evaluation/{}", as they always did:
            another word would change every number at a given seed.
        policy: measures entropy, branching factor and log-probs of the responses; None leaves them out.
        pad_token_id: fills batches.
        scorer: measures the loss of held-out demonstrations; needed where a task has some.
        max_batch: responses that are sampled, and reach the disk, together; None for all of a task at once.
    """

    def __init__(
        self,
        tasks: Sequence[EvaluationTask],
        collector: Collector,
        accelerator: Accelerator,
        *,
        seed_purpose: str,
        policy: Policy | None,
        pad_token_id: int,
        scorer: Policy | None = None,
        max_batch: int | None = None,
    ) -> None:
        self.tasks, self.collector, self.accelerator = tasks, collector, accelerator
        self.seed_purpose, self.policy, self.scorer = seed_purpose, policy, scorer
        self.pad_token_id, self.max_batch = pad_token_id, max_batch

    @property
    def samples(self) -> int:
        """What this process samples in a whole evaluation."""
        return sum(len(task.groups) * task.params.n for task in self.tasks) // self.accelerator.num_processes

    def run(
        self, folder: Path, progress: Progress | None = None, missing: Mapping[str, Sequence[Group]] | None = None
    ) -> Scores:
        """The scores of each task, on every process. What lies in `folder` of the same evaluation is not sampled again.

        Args:
            missing: what `missing_groups` gave, where the caller has asked already.

        Raises:
            SrftError: `folder` holds another evaluation, or cannot be written; a grader fails.
        """
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        missing = missing_groups(self.tasks, folder, self.accelerator) if missing is None else missing
        unwritten: OSError | None = None
        with progress or Progress(None) as shown:
            try:
                for task in self.tasks:
                    groups = missing[task.name][rank::ranks]
                    shown.begin(task.name, len(groups), len(task.groups))
                    for batch in self._batches(groups, task.params.n):
                        began = time.perf_counter()
                        records = self._answer(task, batch)
                        _file(folder, task).append(records, rank)
                        shown.advance(len(batch), sum(r["tokens"] for r in records), time.perf_counter() - began)
            except OSError as error:
                unwritten = error
        for failure in gather(self.accelerator, [unwritten]):  # when all are here
            if failure is not None:
                raise failure
        scores = read_scores(self.tasks, folder, self.accelerator, self.collector.seed)
        return {task.name: scores[task.name] | self._held_out_loss(task) for task in self.tasks}

    def _held_out_loss(self, task: EvaluationTask) -> dict[str, Any]:
        """NLL and perplexity of the task's demonstrations, over all processes; nothing where none are scored."""
        if not task.held_out:
            return {}
        assert self.scorer is not None
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        with self.accelerator.autocast():
            mine = summed_loss(self.scorer, task.held_out[rank::ranks], self.pad_token_id)
        return held_out_loss(gather(self.accelerator, [mine]))

    def _batches(self, groups: Sequence[Group], n: int) -> Iterator[Sequence[Group]]:
        if self.max_batch is None:
            if groups:
                yield groups
            return
        size = max(self.max_batch // n, 1)
        # Long prompts first: a machine too small for them says so at once, and batches are of one length.
        ordered = sorted(groups, key=lambda group: -len(group.prompt.token_ids))
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]

    def _answer(self, task: EvaluationTask, groups: Sequence[Group]) -> list[Record]:
        """The records of `params.n` responses of each group."""
        read = boxed if task.extract == "last" else _unchanged
        grade = ifeval.grade if task.grader == "ifeval" else partial(self.collector.accuracy, extract=task.extract)
        with self.accelerator.autocast():
            responses = self.collector.sample(groups, task.params, self.seed_purpose.format(task.name), grade)
            statistics = measure(self.policy, responses, self.pad_token_id) if self.policy else None
        samples = [k for _, group in groupby(responses, lambda r: r.group_id) for k, _ in enumerate(group)]
        return [
            _record(response, sample, answer_of(read(response.prompt.opening + response.text)))
            | (statistics[i].to_json() if statistics else {})
            for i, (response, sample) in enumerate(zip(responses, samples, strict=True))
        ]


def missing_groups(
    tasks: Sequence[EvaluationTask], folder: Path, accelerator: Accelerator, settings: Mapping[str, Any] = {}
) -> dict[str, list[Group]]:
    """By task, the groups whose responses are not in `folder` yet, the same on every process.

    Args:
        settings: what must be alike for all that lies there, if the caller knows (see `open_folder`).

    Raises:
        SrftError: `folder` holds another evaluation, or cannot be written.
    """

    def tidy() -> None:
        open_folder(folder, settings, {task.name: task.facts for task in tasks})
        for task in tasks:
            if task.groups:
                _file(folder, task).merge()

    first(accelerator, tidy)
    done = {task.name: _file(folder, task).read() for task in tasks}
    accelerator.wait_for_everyone()  # all have read before any writes
    return {task.name: [g for g in task.groups if g.group_id not in done[task.name]] for task in tasks}


def read_scores(tasks: Sequence[EvaluationTask], folder: Path, accelerator: Accelerator, seed: int) -> Scores:
    """The scores of whole tasks in `folder`, on every process."""
    scores: Scores = {}

    def compute() -> None:
        for task in tasks:
            sampled = score(_file(folder, task).merge(), seed) if task.groups else {"problems": len(task.problems)}
            scores[task.name] = sampled

    first(accelerator, compute)
    (shared,) = broadcast_object_list([scores])
    return shared


def _file(folder: Path, task: EvaluationTask) -> RecordFile:
    return RecordFile(folder, task.name, task.params.n)


def _unchanged(text: str) -> str:
    return text


def _record(response: Response, sample: int, answer: str | None) -> Record:
    problem = response.prompt.problem
    return {
        "problem": response.group_id, "sample": sample, "prompt": problem.prompt, "gold": problem.answer,
        "grader": problem.grader, "response": response.text, "answer": answer, "tokens": len(response.token_ids),
        "truncated": response.truncated, "reward": response.reward, "verdict": response.verdict.value,
        **response.details,
    }  # fmt: skip
