"""A plan for hardware that need not be here: a recipe's stages, and the lengths of their data as far as it is here."""

from __future__ import annotations

from dataclasses import replace

from srft.data.load import load_data
from srft.errors import SrftError
from srft.policy.load import load_tokenizer
from srft.recipe.schema import Recipe
from srft.run.estimate import Estimate, estimate_on
from srft.run.plan import tokenized, usable_prompts
from srft.run.sizing.hardware import find_gpu, this_machine
from srft.run.sizing.setup import Lengths


def plan_recipe(
    recipe: Recipe,
    gpu: str | None = None,
    gpus: int = 1,
    *,
    verl: bool = False,
    prompt_tokens: float | None = None,
    response_tokens: float | None = None,
    problems: int | None = None,
) -> list[Estimate]:
    """What each stage takes.

    Args:
        gpu: its name in the table; this machine if left out.
        verl: verl trains, not our own loop.
        prompt_tokens, response_tokens: means, in place of what the data says or half of the recipe's limits.
        problems: to train on, where the data cannot be read.

    Raises:
        SrftError: an unknown GPU, or a model whose config is neither here nor known.
    """
    device = find_gpu(gpu) if gpu else this_machine(gpus)
    return [
        estimate_on(part, _given(_lengths(part), prompt_tokens, response_tokens, problems), device, gpus, verl)
        for part in recipe.parts
    ]


def _given(lengths: Lengths, prompt: float | None, response: float | None, problems: int | None) -> Lengths:
    """The lengths with what the user says of them."""
    if prompt is not None:
        lengths = replace(lengths, prompt=prompt, longest_prompt=max(lengths.longest_prompt, round(prompt)))
    if response is not None:
        lengths = replace(lengths, response=response, demonstration=lengths.demonstration and response)
    said = [f"{name} {value:g}" for name, value in (("prompts of", prompt), ("responses of", response)) if value]
    origin = lengths.origin if not said else f"as given: {' and '.join(said)} tokens; else {lengths.origin}"
    return replace(lengths, problems=problems or lengths.problems, origin=origin)


def _lengths(recipe: Recipe) -> Lengths:
    """Of the data where it and the tokenizer are on this machine, else half of the recipe's limits."""
    data, limit = recipe.data, recipe.rollout.max_response_length
    try:
        problems = load_data(data, recipe.training.seed)
        read = tokenized(recipe, load_tokenizer(recipe.model), problems).prompts
        prompts = usable_prompts(read, recipe, recipe.reads_demonstrations)
    except SrftError:
        return Lengths.assumed(recipe)
    demonstrations = [len(d.token_ids) for p in prompts for d in p.demonstrations]
    return Lengths.measured([len(p.token_ids) for p in prompts], demonstrations, limit)
