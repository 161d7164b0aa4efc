"""A recipe where none is written: for a model, data and a method, lengths off the data, learning rate and steps by
size. What the user says comes on top of what is chosen here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from srft.data.load import load_data
from srft.data.make_template import make_template
from srft.data.tokenize import check_tokenizer, tokenize_problems
from srft.policy.load import load_config, load_tokenizer
from srft.policy.placement import pick_device
from srft.policy.saved import model_name
from srft.recipe.load import load_recipe
from srft.recipe.schema import Recipe
from srft.run.sizing.shape import count_parameters

SMALL, LARGE = 1.6e6, 7.6e9  # parameters of the models that the rates below were used on
FREE_RESPONSE = 1024  # tokens of a response where there is no demonstration to measure
ROUND = 64  # lengths are multiples of it
EPOCHS = 3  # of demonstrations (SRFT App. B)
FEWEST_STEPS, MOST_STEPS = 100, 500  # of a method with rollouts (SRFT App. B: 500)
LARGE_MODEL = 1e9  # parameters from which activations are computed anew and SRFT is as printed
LORA_FACTOR = 10  # of LoRA's rate to that of whole weights (Schulman et al., LoRA Without Regret, 2025)


@dataclass(frozen=True)
class Rate:
    """A family's learning rate, a power of the model's size between two that were used.

    Args:
        small: at 1.6 M parameters.
        large: at 7.6 B parameters and more.
        source: of `large`.
        small_source: of `small`.
    """

    small: float
    large: float
    source: str
    small_source: str = "quickstart"

    def at(self, parameters: float) -> float:
        """For a model of this size, to two digits."""
        share = math.log(min(max(parameters, SMALL), LARGE) / SMALL) / math.log(LARGE / SMALL)
        return float(f"{self.small * (self.large / self.small) ** share:.1e}")


# The quickstart's own 2e-3 is for an expert whose style the model has never seen; on other data it unlearnt everything.
SUPERVISED = Rate(5e-4, 1e-5, "between SRFT's 5e-6 and PSFT's 2e-5 of SFT", "docs/tutorial.md")
PROXIMAL = Rate(2e-3, 1e-6, "PSFT Table 6")
MIXED = Rate(5e-4, 1e-6, "SRFT App. B")
ROLLOUTS = Rate(1e-4, 1e-6, "SRFT App. B, GRPO")
PREFERENCES = Rate(1e-5, 5e-7, "PSFT Table 9")


@dataclass(frozen=True)
class Measured:
    """What the choices follow from.

    Args:
        parameters: of the model.
        window: tokens that it holds; None where its config has no limit.
        prompts: tokens of each.
        demonstrations: tokens of each.
    """

    parameters: int
    window: int | None
    prompts: Sequence[int]
    demonstrations: Sequence[int]


def recipe_for(overrides: Iterable[str]) -> Recipe:
    """A recipe from overrides alone, `model.path` and `data.path` among them; its `notes` say what was chosen.

    Raises:
        SrftError: as `load_recipe`, and whatever is wrong with model or data.
    """
    overrides = list(overrides)
    asked = load_recipe({"training": {"steps": 1}}, overrides)
    tokenizer = load_tokenizer(asked.model)
    check_tokenizer(tokenizer, f"model.path: {asked.model.path}")
    template = "chat" if getattr(tokenizer, "chat_template", None) else "none"
    asked = load_recipe({"training": {"steps": 1}, "data": {"template": template}}, overrides)
    data = asked.data
    problems = load_data(data, asked.training.seed)
    whole = tokenize_problems(
        problems, tokenizer, template=make_template(data), max_prompt_length=None, max_response_length=None
    )
    config = load_config(asked.model)
    measured = Measured(
        count_parameters(config),
        getattr(config.get_text_config(), "max_position_embeddings", None),
        [len(prompt.token_ids) for prompt in whole.prompts],
        [len(demonstration.token_ids) for prompt in whole.prompts for demonstration in prompt.demonstrations],
    )
    chosen = choose(asked, measured)
    chosen["data"]["template"] = template
    if "preferences" in asked.needs and any(problem.rejected for problem in problems):
        chosen["data"]["selection"] = None  # the data's own pairs
    recipe = load_recipe(chosen, overrides)
    return recipe.with_notes(*_notes(recipe, measured), *recipe.notes)


def choose(asked: Recipe, measured: Measured) -> dict[str, Any]:
    """The sections for a recipe that has model, data and method alone."""
    on_cpu = pick_device(asked.training.device).type == "cpu"
    is_large = measured.parameters >= LARGE_MODEL
    prompt = _rounded(max(measured.prompts))
    response = _rounded(_quantile(measured.demonstrations, 0.99)) if measured.demonstrations else FREE_RESPONSE
    if measured.window:
        parts = 2 if asked.rollout.prompting.strategy == "hints" else 1  # a hint may be as long as a response
        response = max(min(response, (measured.window - prompt) // parts), 1)
    sections: dict[str, Any] = {
        "name": f"{model_name(asked.model.path)}-{asked.method.name}",
        "model": {"gradient_checkpointing": is_large},
        "data": {"max_prompt_length": prompt},
        "rollout": {"max_response_length": response},
        "optim": {"lr": rate_of(asked).at(measured.parameters) * (LORA_FACTOR if asked.model.lora else 1)},
        "training": _length(asked, len(measured.prompts), on_cpu),
    }
    if "rollouts" not in asked.needs:
        sections["optim"] |= {"schedule": "linear", "warmup": 0.1}  # SRFT App. B
    if on_cpu:
        sections["training"]["tokens_per_micro_batch"] = 2048
    if asked.method.name == "srft" and not is_large:  # as in the quickstart, where the printed form collapses
        sections["method"] = {"preset": "paper-zh", "rollout_signal": "advantage"}
    return sections


def rate_of(recipe: Recipe) -> Rate:
    """The rate of the method's family, by what it needs."""
    needs = recipe.needs
    if "preferences" in needs:
        return PREFERENCES
    if "rollouts" in needs:
        return MIXED if "demonstrations" in needs else ROLLOUTS
    return PROXIMAL if "old_logp" in needs else SUPERVISED


def _length(asked: Recipe, problems: int, on_cpu: bool) -> dict[str, Any]:
    """Prompts of a step, a power of two times the updates on them, and steps or epochs."""
    updates = asked.optim.updates_per_batch
    if "rollouts" in asked.needs:
        most = min(16 if on_cpu else 128, max(problems // 8, 8))
        prompts = updates * _power_of_two(min(problems, most) // updates)
        steps = min(max(math.ceil(problems / prompts), FEWEST_STEPS), MOST_STEPS)
        return {"prompts_per_step": prompts, "steps": steps}
    epochs = 1 if "preferences" in asked.needs else EPOCHS
    most = min(128, max(problems * epochs // 100, 8))  # a hundred steps or more, where the data are enough
    return {"prompts_per_step": updates * _power_of_two(min(problems, most) // updates), "epochs": epochs}


def _notes(recipe: Recipe, measured: Measured) -> list[str]:
    rate, training, demonstrations = rate_of(recipe), recipe.training, measured.demonstrations
    lengths = f"{len(measured.prompts)} prompts of at most {max(measured.prompts)} tokens"
    if demonstrations:
        longest = _quantile(demonstrations, 0.99)
        lengths += f", {len(demonstrations)} demonstrations of which 99 % have at most {longest}"
    duration = f"{training.steps} steps" if training.steps is not None else f"{training.epochs:g} epochs"
    lora = ", ten times as high for LoRA" if recipe.model.lora else ""
    return [
        f"No recipe is named, so this one is made for {measured.parameters / 1e6:.1f} M parameters and {lengths}: "
        f"template {recipe.data.template}, responses of at most {recipe.rollout.max_response_length} tokens, "
        f"{training.prompts_per_step} prompts a step, {duration}, lr {recipe.optim.lr:g}. --dry-run shows every key.",
        f"Rates go by size, from {rate.small:g} at 1.6 M parameters ({rate.small_source}) to {rate.large:g} at 7.6 B "
        f"({rate.source}){lora}.",
    ]


def _rounded(length: int) -> int:
    return math.ceil(length / ROUND) * ROUND


def _quantile(values: Sequence[int], share: float) -> int:
    """The least value that so many of them do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def _power_of_two(most: int) -> int:
    return 2 ** int(math.log2(max(most, 1)))
