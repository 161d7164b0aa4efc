"""A method is one function on `Tokens`; its keyword arguments are its options. One decorator makes it known by name,
in the package or in a user's own file."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, ParamSpec, get_args, get_origin, get_type_hints

from torch import Tensor

from srft.errors import SrftError, did_you_mean
from srft.objective.options import option_meaning
from srft.objective.vocabulary import Quantity

Need = Literal[
    "demonstrations",
    "rollouts",
    "old_logp",  # log π_old, where several updates are made on a batch
    "means",  # responses.mean, measured before the first update
    "reference",  # log π_ref of the tokens
    "reference_distribution",  # log π_ref over the vocabulary, for the method's vocabulary quantities
    "critic",
    "reward_model",  # an implicit one: log π_φ, trained with the policy
    "preferences",  # pairs of a chosen and a rejected response; TRL trains on them
]
Terms = dict[str, Tensor]
History = Sequence[Mapping[str, Any]]
P = ParamSpec("P")  # tokens and options


@dataclass(frozen=True, repr=False)
class Method(Generic[P]):
    """A registered method. Called on a micro-batch it gives its terms by name; the loss is their sum. It has its
    function's signature, and `help` shows its options.

    Args:
        name: the word in a recipe.
        function: tokens and options in, terms out.
        needs: what the trainer must provide, as a function of the options.
        source: paper, section or equation.
        presets: by name, recipe values by dotted key (`method.<option>` for the method's own).
        settings: recipe values by dotted key that the method brings along, unless a recipe says otherwise.
        measure: of tokens and options, what to measure per token before the first update on a batch, by name, (N,)
            each; its means over responses are `responses.mean`.
        vocabulary: per-token quantities of the whole vocabulary, by name; given as `t.vocabulary`.
        chooses: for a method that does not do the same in every step, what this step needs: a function of the options,
            the step's number, the metrics of the steps before it and a draw from [0, 1).
        uses_advantage: whether the advantages of rollouts enter the loss, as a function of the options; where None,
            they do if the method needs rollouts. Advantage shaping has no effect on a method without them.
    """

    name: str
    function: Callable[P, Terms]
    needs: Callable[[Mapping[str, Any]], frozenset[Need]]
    source: str = ""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    measure: Callable[..., Mapping[str, Tensor]] | None = None
    vocabulary: Mapping[str, Quantity] = field(default_factory=dict)
    chooses: Callable[[Mapping[str, Any], int, History, float], frozenset[Need]] | None = None
    uses_advantage: Callable[[Mapping[str, Any]], bool] | None = None

    def __repr__(self) -> str:
        return f"<method '{self.name}'>"

    def __call__(self, *tokens: P.args, **options: P.kwargs) -> Terms:
        for name, value in options.items():
            kind, _ = self.options.get(name, (None, None))
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise SrftError(
                    f"{name} is {value!r}", where=f"method '{self.name}'", fix=did_you_mean(str(value), get_args(kind))
                )
        return self.function(*tokens, **options)

    @property
    def options(self) -> dict[str, tuple[Any, Any]]:
        """Each option's type and default."""
        hints = get_type_hints(self.function)
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: (hints[p.name], p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}

    def defaults(self, options: Mapping[str, Any] = {}) -> dict[str, Any]:
        """Every option's value: as given, else its default."""
        return {option: default for option, (_, default) in self.options.items()} | dict(options)

    def has_advantage(self, options: Mapping[str, Any] = {}) -> bool:
        """Whether shaping the advantages of rollouts changes the loss under these options."""
        if self.uses_advantage is None:
            return "rollouts" in self.needs(options)
        return self.uses_advantage(self.defaults(options))

    @property
    def summary(self) -> str:
        """The docstring's first paragraph: what it is and which equations."""
        return " ".join((inspect.getdoc(self.function) or "").partition("\n\n")[0].split())

    def preset(self, name: str) -> dict[str, Any]:
        """The preset's own options, to call the method with in Python."""
        values = self.preset_values(name)
        return {key.removeprefix("method."): v for key, v in values.items() if key.startswith("method.")}

    def preset_values(self, name: str) -> Mapping[str, Any]:
        """The preset as recipe values by dotted key."""
        if name not in self.presets:
            raise SrftError(
                f"method '{self.name}' has no preset '{name}'",
                where="method.preset",
                fix=did_you_mean(name, self.presets) if self.presets else "It has none: leave method.preset out.",
            )
        return self.presets[name]


_METHODS: dict[str, Method] = {}


def method(
    name: str,
    *,
    needs: set[Need] | Callable[[Mapping[str, Any]], set[Need]],
    **fields: Any,
) -> Callable[[Callable[P, Terms]], Method[P]]:
    """Register a function `f(t: Tokens, *, option=default, …) -> {term: scalar}` as the method `name`.

    `needs` may be a function of the options; `fields` are the other fields of `Method`, all optional.
    """

    def register(function: Callable[P, Terms]) -> Method[P]:
        def resolved_needs(options: Mapping[str, Any]) -> frozenset[Need]:
            return frozenset(needs(registered.defaults(options)) if callable(needs) else needs)

        registered = _METHODS[name] = Method(name, function, resolved_needs, **fields)
        _document(registered)
        return registered

    return register


def _document(method: Method) -> None:
    """Give it what `inspect.signature` and `help` read: its function, and a docstring with its options."""
    options = [f"{name}: {inspect.formatannotation(kind)} = {x!r}" for name, (kind, x) in method.options.items()]
    facts = {
        "Options": "".join(f"\n    {option}" for option in options),
        "Presets": "".join(f"\n    {name}: {_changes(values)}" for name, values in method.presets.items()),
        "Settings": f" {_changes(method.settings)}" if method.settings else "",
        "Needs": f" {', '.join(sorted(method.needs({})))}",
        "Source": f" {method.source}" if method.source else "",
    }
    text = [inspect.getdoc(method.function) or "", "\n".join(f"{name}:{fact}" for name, fact in facts.items() if fact)]
    own = {"__wrapped__": method.function, "__name__": method.function.__name__, "__doc__": "\n\n".join(text)}
    for name, value in own.items():
        object.__setattr__(method, name, value)


def _changes(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "the defaults"


def methods() -> dict[str, Method]:
    """All registered methods by name."""
    return dict(_METHODS)


def get_method(name: str, file: str | Path | None = None) -> Method:
    """The method `name`; `file` is a Python file of the user's own that registers it."""
    if file is not None:
        path = Path(file)
        spec = importlib.util.spec_from_file_location(f"srft_user_{path.stem}", path)
        if not os.path.isfile(path) or spec is None or spec.loader is None:
            raise SrftError("no such Python file", where=f"method.file: {file}", fix="Give a path to a .py file.")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
        spec.loader.exec_module(module)
    if name not in _METHODS:
        raise SrftError(f"unknown method '{name}'", where="method.name", fix=did_you_mean(name, _METHODS))
    return _METHODS[name]


def methods_list() -> str:
    """What `srft methods` shows: a paragraph a method. Kept as `objective/methods.txt`, which is read without torch."""
    return "".join(map(method_text, sorted(_METHODS)))


def method_text(name: str) -> str:
    """A method in lines: what it is; indented, its source, needs, options, presets and the rest of its docstring."""
    one = _METHODS[name]
    rows = [("source", one.source), ("needs", ", ".join(sorted(one.needs({}))))]
    for option, (kind, default) in one.options.items():
        choices = " | ".join(map(str, _choices(kind)))
        words = filter(None, (f"{option}={_yaml(default)}", choices and f"({choices})", option_meaning(name, option)))
        rows.append(("option", "  ".join(words)))
    rows += [("preset", f"{preset}  {_assigned(values)}".rstrip()) for preset, values in one.presets.items()]
    if one.settings:
        rows.append(("sets", _assigned(one.settings)))
    about = (inspect.getdoc(one.function) or "").partition("\n\n")[2]
    rows += [("about", " ".join(paragraph.split())) for paragraph in about.split("\n\n") if paragraph]
    return "\n".join([f"{name}  {one.summary}", *(f"  {label:<8} {text}" for label, text in rows)]) + "\n"


def _choices(kind: Any) -> list[Any]:
    """The words that a type allows, e.g. of `Literal["a", "b"] | None`."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for argument in get_args(kind) for choice in _choices(argument)]


def _assigned(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_yaml(value)}" for key, value in values.items())


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
