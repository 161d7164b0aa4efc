"""The policy's own graded samples as demonstrations or pairs: before a stage, or from a run's saved rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from srft.data.files import read_jsonl
from srft.data.make_template import make_template
from srft.data.problem import Problem
from srft.data.tokenize import tokenize_problems
from srft.errors import SrftError
from srft.evaluation.token_statistics import TokenStatistics, measure_inputs
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, load_model, load_tokenizer, pad_token_id
from srft.policy.micro_batch import ModelInput
from srft.policy.placement import for_inference
from srft.processes import first, gather
from srft.recipe.load import load_recipe, validated
from srft.rollout.collector import Collector
from srft.rollout.response import Group
from srft.run.plan import Plan, with_problems
from srft.training.run_dir import RunDir
from srft.training.selection import (
    UNSCORED,
    Candidate,
    needs_scores,
    read_selection,
    select,
    write_selection,
)
from srft.training.settings import SelectionSettings
from srft.verify.grade import Verdict

COLUMNS = {"is_demo", "prompt", "answer", "response", "verdict", "truncated"}  # of a saved rollout


def with_selection(
    plan: Plan, policy: Policy | None, collector: Collector, accelerator: Accelerator, file: Path, stage: int
) -> Plan:
    """The plan on the policy's own selected samples, where its recipe asks for them; they are kept in `file`.

    Args:
        policy: scores the samples, where the selection needs scores.
    """
    settings = plan.recipe.data.selection
    if settings is None:
        return plan
    if not file.exists():
        candidates = _candidates(plan, settings, policy, collector, accelerator, f"selection {stage}")
        chosen = select(candidates, settings, plan.recipe.training.seed)
        first(accelerator, lambda: write_selection(file, chosen))
    return with_problems(plan, read_selection(file))


def _candidates(
    plan: Plan,
    settings: SelectionSettings,
    policy: Policy | None,
    collector: Collector,
    accelerator: Accelerator,
    purpose: str,
) -> list[Candidate]:
    """Graded samples of every prompt, over all ranks."""
    groups = [Group(i, prompt) for i, prompt in enumerate(plan.prompts)]
    mine = groups[accelerator.process_index :: accelerator.num_processes]
    params = plan.recipe.sampling.model_copy(update={"n": settings.n})
    max_tokens = plan.recipe.training.tokens_per_micro_batch
    with accelerator.autocast():
        responses = collector.sample(mine, params, purpose)
        scores = [UNSCORED] * len(responses)
        if needs_scores(settings):
            assert policy is not None
            inputs = [r.model_input(i) for i, r in enumerate(responses)]
            scores = measure_inputs(policy, inputs, max_tokens, plan.pad_token_id)
    rows = [(r.group_id, r.text, r.is_correct, *astuple(s)) for r, s in zip(responses, scores, strict=True)]
    return [
        Candidate(plan.prompts[group_id].problem, text, is_correct, TokenStatistics(*means))
        for group_id, text, is_correct, *means in sorted(gather(accelerator, rows))
    ]


def saved_candidates(run: RunDir, settings: SelectionSettings, model: str | None = None) -> list[Candidate]:
    """The rollouts that a run saved, scored where `settings` need it by `model`, if left out by the run's own: its best
    checkpoint where it keeps one, else its newest.

    Raises:
        SrftError: it saved none.
    """
    placed = [one for file in sorted(run.path.glob("rollouts/step-*.jsonl")) for one in read_jsonl(file)]
    for where, row in placed:
        if not isinstance(row, dict) or not set(row) >= COLUMNS:
            fix = "Move what does not belong to the run out of its rollouts/."
            raise SrftError("not a rollout that a run saved", where=where, fix=fix)
    rows = [row for _, row in placed if not row["is_demo"]]
    if not rows:
        raise SrftError("no saved rollouts", where=f"{run.path}/rollouts", fix="Name the directory of a run with RL.")
    problems = [Problem(_prompt(row["prompt"]), row["answer"]) for row in rows]
    scores = [UNSCORED] * len(rows)
    if needs_scores(settings):
        scores = _scores_of_saved(run, rows, problems, model)
    return [
        Candidate(problem, row["response"], row["verdict"] == Verdict.RIGHT, score)
        for problem, row, score in zip(problems, rows, scores, strict=True)
    ]


def _scores_of_saved(
    run: RunDir, rows: Sequence[dict[str, Any]], problems: Sequence[Problem], model: str | None
) -> list[TokenStatistics]:
    recipe = load_recipe(run.path / "recipe.yaml")
    source = validated(ModelSettings, {"path": model or str(run.path)}, str(run.path))
    tokenizer = load_tokenizer(source)
    prompts = tokenize_problems(
        problems,
        tokenizer,
        template=make_template(recipe.data),
        max_prompt_length=None,
        max_response_length=None,
    ).prompts
    inputs = []
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        ids = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
        response_ids = ids if row["truncated"] else [*ids, tokenizer.eos_token_id]
        inputs.append(ModelInput(prompt.token_ids, response_ids, i, recipe.rollout.temperature))
    policy = for_inference(Policy(load_model(source)), "fp32")
    max_tokens = recipe.training.tokens_per_micro_batch
    return measure_inputs(policy, inputs, max_tokens, pad_token_id(tokenizer))


def _prompt(value: Any) -> Any:
    return value if isinstance(value, str) else tuple(value)
