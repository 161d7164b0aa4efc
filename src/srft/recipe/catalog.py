"""Recipes in files: the packaged ones by name, a user's own by path, each with its variants and what it extends.

A file holds the sections of one recipe. `summary` says what it is; `variants` maps a name to changes over the file's
own sections, with a `summary` of its own and, by `extends`, over another variant of the file; a key that begins with
`x-` is ignored and may hold anchors. The recipe `quickstart-grpo` is the variant `grpo` of the packaged file
`quickstart.yaml`, `mine.yaml:grpo` that of a file of the user's. This module is light to import.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from srft.errors import SrftError, did_you_mean
from srft.recipe.merge import merge

RECIPES = resources.files("srft") / "recipes"
ENDINGS = (".yaml", ".yml")
MOST_VALUES = 100_000  # of a recipe, aliases written out
SHORT = 12_000  # characters: too few to be nested deeper than the C library bears
DEEPEST = 100  # lists and mappings within one another

if TYPE_CHECKING:
    BaseLoader = yaml.SafeLoader
else:
    BaseLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class RecipeFile:
    """A file of recipes.

    Args:
        label: its path, or the packaged name.
        text: the YAML; empty for a dict.
        base: the sections, `extends` among them.
        variants: changes to the base by name, each with its `summary` and `extends`.
        summary: of the base; None where it is no recipe of its own.
        folder: where a path in `extends` begins; None for a packaged file or a dict.
    """

    label: str
    text: str
    base: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    summary: str | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Layer:
    """Sections that one place of one file gives.

    Args:
        sections: a tree of plain values.
        text: the YAML of the file.
        path: the keys that lead to the sections in it, e.g. ("variants", "grpo").
    """

    sections: Mapping[str, Any]
    text: str
    path: tuple[str, ...]


def list_recipes() -> dict[str, str]:
    """The packaged recipes and what they are, by full name."""
    recipes = {}
    for stem in _packaged_files():
        file = _packaged_file(stem)
        if file.summary is not None:
            recipes[stem] = file.summary
        for variant, changes in file.variants.items():
            recipes[f"{stem}-{variant}"] = str(changes.get("summary", ""))
    return recipes


def read_recipe(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as a tree of plain values, over what it extends; `name` is its full name.

    Raises:
        SrftError: there is no such recipe, or it is no YAML mapping.
    """
    return merge_layers(read_layers(source))


def read_layers(source: str | Path | Mapping[str, Any]) -> list[Layer]:
    """What a recipe is made of, later over earlier.

    Raises:
        SrftError: there is no such recipe, or it is no YAML mapping.
    """
    return _layers(source, None, ())


def recipes_of_method(method: str) -> list[str]:
    """The packaged recipes that train by a method, in a stage at least."""
    return [name for name in list_recipes() if method in stage_methods(read_recipe(name))]


def variants_of_method(source: str | Path, method: str) -> dict[str, str]:
    """The recipes of the same file that train by a method alone, by the variant's name; "" is the file's own recipe.

    Raises:
        SrftError: there is no such recipe.
    """
    file, _, _ = _open(str(source), None)
    packaged = file.folder is None
    names = {variant: f"{file.label}{'-' if packaged else ':'}{variant}" for variant in file.variants}
    if file.summary is not None or not packaged:
        names[""] = file.label
    return {variant: name for variant, name in names.items() if stage_methods(read_recipe(name)) == [method]}


def stage_methods(tree: Mapping[str, Any]) -> list[str]:
    """The method of each stage of a recipe, or of the recipe itself where it has none."""
    stages = [merge(tree, stage) for stage in tree.get("stages") or () if isinstance(stage, Mapping)]
    return [method_name(stage) for stage in stages] or [method_name(tree)]


def method_name(tree: Mapping[str, Any]) -> str:
    """Of a recipe's sections, or of a stage's."""
    section = tree.get("method")
    return str(section.get("name", "srft")) if isinstance(section, Mapping) else "srft"


def merge_layers(layers: Iterable[Layer]) -> dict[str, Any]:
    """Their sections, later over earlier."""
    empty: dict[str, Any] = {}
    return reduce(merge, (layer.sections for layer in layers), empty)


def parse_yaml(text: str) -> Any:
    """A value as YAML; text that is no YAML stays text."""
    try:
        return _load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _load_yaml(text: str) -> Any:
    """Raises YAMLError, ValueError (a date that is none, a number of 5,000 digits, aliases that written out would fill
    the memory) or RecursionError for what is no recipe's."""
    if len(text) > SHORT:
        _check_depth(text)
    tree = yaml.load(text, Loader=RecipeLoader)
    level, count, depth = [tree], 0, 0
    while level:
        level = [inner for item in level for inner in _items(item)]
        count, depth = count + len(level), depth + 1
        if count > MOST_VALUES or depth > DEEPEST:
            raise ValueError(f"more than {MOST_VALUES} values, or nested more than {DEEPEST} deep")
    return tree


def _check_depth(text: str) -> None:
    """Raises ValueError before a text is composed by the C library, whose recursion has no limit but the stack's."""
    depth = 0
    for event in yaml.parse(text, Loader=RecipeLoader):
        depth += isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent)
        depth -= isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} deep")


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list) else ()


class RecipeLoader(BaseLoader):
    """YAML 1.1 reads 1e-6 as a string, and None as one; everyone means a number, and nothing. A key that stands twice
    in a mapping is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As YAML's."""
        keys: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
            keys.add(key.value)
        return super().construct_mapping(node, deep)


RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)
RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^None$"), ["N"])


def _layers(source: str | Path | Mapping[str, Any], folder: Path | None, seen: tuple[Any, ...]) -> list[Layer]:
    """The layers of a recipe; a path is relative to `folder` where it exists there."""
    if isinstance(source, Mapping):
        file, variant, name = _split(dict(source), "recipe", ""), None, None
    else:
        file, variant, name = _open(str(source), folder)
        if (place := (file.label, variant)) in seen:
            route = " → ".join(f"{label}:{v}" if v else label for label, v in (*seen, place))
            raise SrftError(f"extends itself by way of {route}", where=str(source), fix="Break the circle.")
        seen = (*seen, place)
    base = dict(file.base)
    parent = base.pop("extends", None)
    layers = [] if parent is None else _layers(str(parent), file.folder, seen)
    layers.append(Layer(base, file.text, ()))
    layers += [Layer(_changes(file, v), file.text, ("variants", v)) for v in _variant_chain(file, variant)]
    if name is not None and (variant is not None or "name" not in base):
        layers.append(Layer({"name": name}, "", ()))
    return layers


def _open(source: str, folder: Path | None) -> tuple[RecipeFile, str | None, str]:
    """The file of a recipe, the variant of it, and the full name."""
    path, variant = Path(source), None
    if not source.endswith(ENDINGS) and source.rpartition(":")[0].endswith(ENDINGS):
        path, variant = Path(source.rpartition(":")[0]), source.rpartition(":")[2]
    if path.suffix not in ENDINGS:
        return _open_packaged(source)
    near = folder / path if folder is not None else path
    path = near if near.is_file() else path
    if not path.is_file():
        raise SrftError("no such file", where=str(path), fix="Check the path, or name one of `srft recipes`.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SrftError(f"cannot be read: {error.strerror}", where=str(path), fix="Check the path.") from None
    file = _parse(data, str(path), path.parent)
    if variant is not None and variant not in file.variants:
        raise SrftError(f"no variant '{variant}'", where=str(path), fix=did_you_mean(variant, file.variants))
    stem = str(file.base.get("name", path.stem))
    return file, variant, stem if variant is None else f"{stem}-{variant}"


def _open_packaged(name: str) -> tuple[RecipeFile, str | None, str]:
    if name not in (known := list_recipes()):
        raise SrftError(f"no recipe '{name}'", where="recipe", fix=did_you_mean(name, known))
    stem = max((s for s in _packaged_files() if name == s or name.startswith(f"{s}-")), key=len)
    return _packaged_file(stem), name[len(stem) + 1 :] or None, name


@cache
def _packaged_files() -> tuple[str, ...]:
    names = sorted(entry.name for entry in RECIPES.iterdir())
    return tuple(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


@cache
def _packaged_file(stem: str) -> RecipeFile:
    return _parse((RECIPES / f"{stem}.yaml").read_bytes(), stem, None)


def _parse(data: bytes, label: str, folder: Path | None) -> RecipeFile:
    try:
        text = data.decode("utf-8-sig")
        tree = _load_yaml(text)
    except UnicodeDecodeError as error:
        raise SrftError(f"not UTF-8: {error}", where=label, fix="Save it as UTF-8.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SrftError(f"not valid YAML: {error}", where=label, fix="Correct the file.") from None
    if not isinstance(tree, dict):
        raise SrftError("a recipe is a mapping of sections", where=label, fix="See `srft recipes quickstart`.")
    return _split(tree, label, text, folder)


def _split(tree: dict[str, Any], label: str, text: str, folder: Path | None = None) -> RecipeFile:
    variants = tree.get("variants") or {}
    if not isinstance(variants, Mapping) or not all(isinstance(v or {}, Mapping) for v in variants.values()):
        raise SrftError(
            "'variants' is not a mapping of names to changes",
            where=label,
            fix="Write `variants: {grpo: {summary: …, method: {name: grpo}}}`.",
        )
    summary = tree.get("summary")
    base = {k: v for k, v in tree.items() if k not in ("variants", "summary") and not str(k).startswith("x-")}
    named = {str(name): changes or {} for name, changes in variants.items()}
    return RecipeFile(label, text, base, named, None if summary is None else str(summary), folder)


def _variant_chain(file: RecipeFile, variant: str | None) -> list[str]:
    """A variant after those that it extends."""
    chain: list[str] = []
    while variant is not None:
        if variant in chain:
            raise SrftError(f"variant '{variant}' extends itself", where=file.label, fix="Break the circle.")
        if variant not in file.variants:
            raise SrftError(f"no variant '{variant}'", where=file.label, fix=did_you_mean(variant, file.variants))
        chain.append(variant)
        parent = file.variants[variant].get("extends")
        variant = None if parent is None else str(parent)
    return chain[::-1]


def _changes(file: RecipeFile, variant: str) -> dict[str, Any]:
    return {k: v for k, v in file.variants[variant].items() if k not in ("summary", "extends")}
