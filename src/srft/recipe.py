"""Recipes: one YAML (or dict) that names everything a run is made of, strict about every key.

Layers, later over earlier: the defaults below, the method's own settings and its preset, what the recipe `extends`, the
recipe itself, the overrides; in a staged recipe each stage comes on top. A layer that changes `method.name` drops the
method options of the layers beneath it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from srft.errors import SrftError, did_you_mean
from srft.objective import Method, Need, get_method

RECIPES = resources.files("srft") / "recipes"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Lora(Section):
    rank: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class ModelSection(Section):
    path: str = Field(description="hub id, folder, .gguf file, or `srft:model` for the one that ships in the package")
    revision: str | None = None
    config: dict[str, Any] = Field({}, description="changes to the model's config.json, e.g. rope_theta: 40000")
    attention: str | None = Field(None, description="transformers' attn_implementation; its own choice if left out")
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    trust_remote_code: bool = False


class Selection(Section):
    """The policy's own graded samples in place of the data's demonstrations, drawn before the stage begins."""

    keep: Literal["correct", "noise", "entropy", "rbf", "noise+rbf", "pairs"] = Field(
        "correct", description="right samples; with wrong ones among them; highest entropy or branching factor; pairs"
    )
    n: int = Field(8, gt=0, description="samples per prompt")
    top: float = Field(0.5, gt=0, le=1, description="share of a prompt's right samples kept by entropy or rbf")
    noise: float = Field(0.05, ge=0, lt=1, description="share of wrong samples in what is kept (study §4.2: 0.05)")


class DataSection(Section):
    path: str = Field(description="file, `srft:…`, `reasoning-gym:TASK` or hub id")
    split: str = "train"
    options: dict[str, Any] = {}
    limit: int | None = Field(None, gt=0, description="take only the first so many problems")
    template: Literal["srft", "qwen-math", "chat", "none"] = "srft"
    max_prompt_length: int = Field(1024, gt=0, description="tokens")
    long_demonstrations: Literal["truncate", "drop"] = "truncate"
    bad_answers: Literal["error", "drop"] = Field("error", description="answers that do not grade equal to themselves")
    selection: Selection | None = None


class Hint(Section):
    """Rollouts begin after the first chunks of the solution (UFT)."""

    chunks: int = Field(5, gt=0)
    start: float = Field(0.95, ge=0, le=1, description="p of Binomial(chunks, p) at the first step")
    end: float = Field(0.05, ge=0, le=1)
    steps: float = Field(
        0.6, gt=0, le=1, description="share of the steps over which p falls; then no hint (300 of 500)"
    )


class Guidance(Section):
    """A share of the rollouts has a thought pattern in the prompt (TAPO)."""

    share: float = Field(0.5, gt=0, le=1)
    library: str | None = Field(
        None, description="JSONL of conditions and pattern; from the demonstrations if left out"
    )


class RolloutSection(Section):
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    n: int = Field(8, gt=0, description="responses per prompt (SRFT App. B: 8)")
    demonstrations: int = Field(1, gt=0, description="demonstrations per prompt")
    demo_slots: Literal["add", "replace"] = Field("add", description="n rollouts + demos, or n in all (LUFFY's code)")
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_response_length: int = Field(8192, gt=0, description="tokens (SRFT App. B: 8192)")
    max_batch: int = Field(256, gt=0, description="rows decoded together by the transformers engine")
    refill: int = Field(
        0, ge=0, description="rounds of further prompts for all-right and all-wrong groups; 0: keep them"
    )
    hint: Hint | None = None
    guidance: Guidance | None = None


class VerifySection(Section):
    workers: int | None = Field(None, gt=0, description="processes; as many as cores if left out, at most 8")
    timeout: float = Field(5.0, gt=0, description="seconds for one answer")
    function: str | None = Field(
        None, description="path/to/file.py:name, a grader of your own (TRL's signature or verl's)"
    )
    check_answers: int = Field(1000, ge=0, description="how many ground truths must grade equal to themselves first")


class MethodSection(Section):
    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "srft"
    preset: str | None = None
    file: str | None = Field(None, description="a Python file of your own that registers the method")

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class PplShaping(Section):
    alpha: float = Field(0.01, ge=0)


class PositionShaping(Section):
    alpha: float = Field(0.1, ge=0)
    steps: tuple[int, int] | None = Field(None, description="after the first to the second; released code: [200, 300]")


class AdvantageSection(Section):
    """Changes to the advantage of rollouts, of any method that has one (exploration study, §4.3)."""

    ppl: PplShaping | None = None
    position: PositionShaping | None = None


class BufferSection(Section):
    """Prompts whose rollouts all failed: SFT on their demonstrations when there are enough (ReLIFT)."""

    size: int = Field(0, ge=0, description="demonstrations of one update; 0: no buffer (ReLIFT: 128)")
    lr: float | None = Field(None, gt=0, description="of its own AdamW; optim.lr if left out")
    method: str = Field("sft", description="what is learnt from them")


class OptimSection(Section):
    lr: float = Field(1e-6, gt=0, description="SRFT App. B: 1e-6")
    auxiliary_lr: float | None = Field(None, gt=0, description="of the critic or the reward model; lr if left out")
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(1.0, gt=0)
    updates_per_batch: int = Field(1, gt=0, description="optimizer updates on each batch of rollouts")

    @property
    def schedule_name(self) -> str:
        """transformers' name of the schedule; a constant one has its warm-up too."""
        return "constant_with_warmup" if self.schedule == "constant" else self.schedule


class TrainingSection(Section):
    steps: int | None = Field(None, ge=0)
    epochs: float | None = Field(None, gt=0, description="in place of steps")
    prompts_per_step: int = Field(128, gt=0)
    tokens_per_micro_batch: int = Field(16384, gt=0, description="padded tokens of one forward pass")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 autocast on CUDA, else fp32")
    device: Literal["auto", "cpu"] = "auto"
    seed: int = 0
    checkpoint_every: int = Field(0, ge=0, description="steps; 0: only at the end or when interrupted")
    keep_checkpoints: int = Field(2, gt=0)

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSection:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give one of `steps` and `epochs`")
        return self


class EvaluationSet(Section):
    path: str
    split: str = "test"
    options: dict[str, Any] = {}
    limit: int | None = Field(None, gt=0)


class EvaluationSection(Section):
    sets: dict[str, EvaluationSet] = {}
    every: int = Field(0, ge=0, description="steps; 0: only before and after")
    at_start: bool = True
    samples: int = Field(8, gt=0, description="k of avg@k and pass@k")
    temperature: float = Field(0.6, ge=0, description="SRFT App. B: 0.6; 0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    max_response_length: int | None = Field(None, gt=0, description="tokens; the rollouts' if left out")


class LoggingSection(Section):
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = []
    project: str = "srft"
    samples_every: int = Field(10, ge=0, description="steps between shown completions; 0: never")
    rollouts: bool = Field(True, description="write every sampled rollout with its score")


class Recipe(Section):
    name: str = "run"
    model: ModelSection
    data: DataSection
    rollout: RolloutSection = RolloutSection()
    verify: VerifySection = VerifySection()
    method: MethodSection = MethodSection()
    advantage: AdvantageSection = AdvantageSection()
    buffer: BufferSection = BufferSection()
    optim: OptimSection = OptimSection()
    training: TrainingSection
    evaluation: EvaluationSection = EvaluationSection()
    logging: LoggingSection = LoggingSection()
    stages: tuple[Recipe, ...] = Field((), description="one after another, each a change to the recipe above")

    @property
    def parts(self) -> tuple[Recipe, ...]:
        """The stages, or the recipe itself where it has none."""
        return self.stages or (self,)

    @property
    def title(self) -> str:
        """What it does, in words of `srft methods`."""
        return " → ".join(part.method.name for part in self.parts)

    @property
    def needs(self) -> frozenset[Need]:
        """What the method and the shaping of its advantage need."""
        needs = self.loss.needs(self.method_options)
        return needs | {"means"} if self.advantage.ppl and "rollouts" in needs else needs

    @property
    def reads_demonstrations(self) -> bool:
        """Whether the data must hold demonstrations."""
        asked = "demonstrations" in self.needs or self.buffer.size > 0
        return (asked and self.data.selection is None) or self.rollout.hint is not None

    @property
    def loss(self) -> Method:
        """The registered method this recipe names."""
        return get_method(self.method.name, self.method.file)

    @property
    def method_options(self) -> dict[str, Any]:
        """Every option of the method, defaults filled in, checked against the method's signature."""
        return _check_options(self.loss, self.method.options)

    @property
    def rollouts_per_prompt(self) -> int:
        """n, less the demonstrations' places where these replace rollouts."""
        replaced = self.rollout.demonstrations if self.rollout.demo_slots == "replace" else 0
        return self.rollout.n - replaced if "demonstrations" in self.needs else self.rollout.n

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def list_recipes() -> dict[str, str]:
    """The packaged recipes: name and first comment line."""
    found = {}
    for entry in sorted(RECIPES.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            found[entry.name.removesuffix(".yaml")] = entry.read_text().split("\n", 1)[0].removeprefix("# ")
    return found


def recipe_text(name: str) -> str:
    """The YAML of a packaged recipe."""
    if name not in (known := list_recipes()):
        raise SrftError(f"no recipe '{name}'", where="recipe", fix=did_you_mean(name, known))
    return (RECIPES / f"{name}.yaml").read_text()


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """A checked recipe from a packaged name, a YAML file or a dict, with `section.key=value` overrides.

    Raises:
        SrftError: naming the file and key, for whatever is unknown, malformed or of a wrong type.
    """
    where = "recipe" if isinstance(source, Mapping) else str(source)
    tree = _read(source)
    for text in overrides:
        tree = _merge(tree, _override(text))
    stages = tree.pop("stages", None) or []
    if not isinstance(stages, list) or not all(isinstance(stage, Mapping) for stage in stages):
        raise SrftError(
            "'stages' is not a list of changes", where=where, fix="Write `- method: {name: sft}` and so on."
        )
    recipe = _check(tree, where)
    parts = [_check(_merge(tree, stage), f"{where}: stage {i}") for i, stage in enumerate(stages, 1)]
    return recipe.model_copy(update={"stages": tuple(parts)})


def _check(tree: dict[str, Any], where: str) -> Recipe:
    """The recipe of a tree without stages, with the method's own settings under it."""
    if tree.pop("stages", None):
        raise SrftError("a stage has no stages of its own", where=where, fix="List them all under `stages`.")
    tree = _apply_method(tree)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, where) from None
    _check_options(recipe.loss, recipe.method.options)
    if recipe.rollouts_per_prompt < 1:
        raise SrftError(
            f"demo_slots: replace leaves no rollout of n = {recipe.rollout.n}",
            where=f"{where}: rollout",
            fix="Raise rollout.n or lower rollout.demonstrations.",
        )
    return recipe


def make_selection(**values: Any) -> Selection:
    """A `data.selection` from plain values.

    Raises:
        SrftError: naming the key, for whatever is unknown or malformed.
    """
    try:
        return Selection.model_validate(values)
    except ValidationError as error:
        raise _explain(error, "data.selection", Selection.model_fields) from None


def _read(source: str | Path | Mapping[str, Any], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if isinstance(source, Mapping):
        tree, where = dict(source), "recipe"
    else:
        where = str(source)
        if where in seen:
            raise SrftError(f"extends itself by way of {' → '.join(seen)}", where=where, fix="Break the circle.")
        path = Path(source)
        if path.suffix in (".yaml", ".yml"):
            if not path.is_file():
                raise SrftError("no such file", where=where, fix="Check the path, or name one of `srft recipes`.")
            text = path.read_text()
        else:
            text = recipe_text(where)
        try:
            tree = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise SrftError(f"not valid YAML: {error}", where=where, fix="Mend the file.") from None
        if not isinstance(tree, dict):
            raise SrftError("a recipe is a mapping of sections", where=where, fix="See `srft recipes quickstart`.")
        tree.setdefault("name", path.stem)
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    near = Path(source).parent / str(parent) if isinstance(source, str | Path) else Path(str(parent))
    return _merge(_read(near if near.is_file() else str(parent), (*seen, where)), tree)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-6 as a string; everyone means a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise SrftError(f"'{text}' is not an override", where="command line", fix="Write section.key=value.")
    try:
        tree: Any = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError:
        tree = value
    return _nest(key, tree)


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, list) and isinstance(value, Mapping) and all(str(k).isdigit() for k in value):
            merged[key] = [_merge(x, value[str(i)]) if str(i) in value else x for i, x in enumerate(old)]
            continue  # stages.0.training.steps=2
        if key == "method" and isinstance(value, Mapping) and isinstance(old, Mapping):
            renamed = value.get("name", old.get("name")) != old.get("name")
            merged[key] = dict(value) if renamed else {**old, **value}
        elif value and isinstance(value, Mapping) and isinstance(old, Mapping):  # an empty one clears
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _apply_method(tree: dict[str, Any]) -> dict[str, Any]:
    """The method's settings and its preset under the tree."""
    section = tree.get("method") or {}
    if not isinstance(section, Mapping):
        return tree
    chosen = get_method(section.get("name", "srft"), section.get("file"))
    preset = chosen.preset_values(section["preset"]) if section.get("preset") else {}
    values: dict[str, Any] = {}
    for key, value in {**chosen.settings, **preset}.items():
        values = _merge(values, _nest(key, value))
    return _merge({**values, "method": {"name": chosen.name, **values.get("method", {})}}, tree)


def _check_options(chosen: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    config = ConfigDict(extra="forbid", strict=False)
    fields: dict[str, Any] = dict(chosen.options)
    schema = create_model(f"{chosen.name} options", __config__=config, **fields)
    try:
        return dict(schema.model_validate(dict(options)))
    except ValidationError as error:
        raise _explain(error, "method", fields) from None


def _explain(error: ValidationError, where: str, known: Iterable[str] | None = None) -> SrftError:
    """The first few findings in words, an unknown key with the nearest known one."""
    lines, fixes = [], []
    for finding in error.errors()[:5]:
        path = [str(part) for part in finding["loc"]]
        key = ".".join(path) or "recipe"
        if finding["type"] == "extra_forbidden":
            lines.append(f"unknown key '{key}'")
            choices = list(known) if known is not None else _keys(path[:-1])
            fixes.append(_suggest(path[-1], path[:-1], choices, everywhere=known is None))
        elif finding["type"] == "missing":
            lines.append(f"'{key}' is missing")
            fixes.append(f"Give {key}=….")
        else:
            lines.append(f"'{key}': {finding['msg']}, found {finding['input']!r}")
    return SrftError("; ".join(lines), where=where, fix=" ".join(fixes) or "Mend the value.")


def _keys(path: list[str]) -> list[str]:
    model: Any = Recipe
    for part in path:
        annotation = model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else None
        arguments = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, Section)]
        model = arguments[0] if arguments else annotation
        if annotation is None and path[0] == "evaluation":
            model = EvaluationSet
    return list(getattr(model, "model_fields", {}))


def _suggest(word: str, path: list[str], choices: list[str], everywhere: bool) -> str:
    if everywhere:
        for section, info in Recipe.model_fields.items():
            if word in getattr(info.annotation, "model_fields", {}):
                return f"Did you mean '{section}.{word}'?"
    return did_you_mean(word, choices)
