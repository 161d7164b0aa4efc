"""A recipe as one file to read or to change: what it extends merged into it, comments kept next to their values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from srft.recipe.catalog import Layer, list_recipes, merge_layers, read_layers

Path = tuple[str, ...]  # keys, and places in lists, that lead to a value


@dataclass(frozen=True)
class Comment:
    """What is said of a value.

    Args:
        above: the lines over it, without their "#".
        after: the end of its line; empty where there is none.
    """

    above: tuple[str, ...] = ()
    after: str = ""


@dataclass(frozen=True)
class Place:
    """A key in a text.

    Args:
        path: that leads to it.
        line: counted from 0.
        comment: of the value.
        is_list: the value is a list.
    """

    path: Path
    line: int
    comment: Comment
    is_list: bool


def recipe_text(name: str) -> str:
    """A packaged recipe as YAML that needs no other file.

    Raises:
        SrftError: there is no such recipe.
    """
    layers = read_layers(name)
    tree = {key: value for key, value in merge_layers(layers).items() if key != "name"}
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    lines, comments = text.splitlines(), _comments(layers)
    for place in sorted(_places(text), key=lambda place: -place.line):
        comment, line = comments.get(place.path, Comment()), lines[place.line]
        indent = " " * (len(line) - len(line.lstrip(" -")))
        after = f"{line}   # {comment.after}" if comment.after else line
        lines[place.line : place.line + 1] = [*(f"{indent}# {words}" for words in comment.above), after]
    return "\n".join([f"# {list_recipes()[name]}", f"# The recipe {name} with all that it extends.", *lines, ""])


def _comments(layers: list[Layer]) -> dict[Path, Comment]:
    """The comments of the values that count: a layer's own, or none, where it sets a value anew."""
    comments: dict[Path, Comment] = {}
    for layer in layers:
        for place in _places(layer.text, layer.path) if layer.text else ():
            if place.is_list:
                comments = {p: c for p, c in comments.items() if p[: len(place.path)] != place.path}
            comments[place.path] = place.comment
    return comments


def _places(text: str, path: Path = ()) -> Iterator[Place]:
    """The keys of a YAML text, below those of `path`, which are left out of the results."""
    node: Any = yaml.compose(text)
    lines = text.splitlines()
    for word in path:
        node = next(value for key, value in node.value if key.value == word)
    yield from _walk(node, lines, ())


def _walk(node: Any, lines: list[str], path: Path) -> Iterator[Place]:
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _walk(item, lines, (*path, str(i)))
    if not isinstance(node, yaml.MappingNode):
        return
    merged = [value for key, value in node.value if key.value == "<<"]
    for value in merged:
        yield from _walk(value, lines, path)
    for key, value in node.value:
        if key.value != "<<":
            here = (*path, str(key.value))
            is_list = isinstance(value, yaml.SequenceNode)
            yield Place(here, key.start_mark.line, _comment(key, value, lines), is_list)
            yield from _walk(value, lines, here)


def _comment(key: Any, value: Any, lines: list[str]) -> Comment:
    number = key.start_mark.line
    line = lines[number]
    if value.start_mark.index < key.start_mark.index:  # an alias has the place of its anchor
        rest = re.sub(r"^\s*\*\S+", "", line[key.end_mark.column + 1 :])
    elif value.start_mark.line > number:
        rest = line[key.end_mark.column + 1 :]
    else:
        rest = line[value.end_mark.column :] if value.end_mark.line == number else ""
    rest = re.sub(r"^\s*&\S+", "", rest).strip()
    above: list[str] = []
    while line[: key.start_mark.column].isspace() or key.start_mark.column == 0:
        number -= 1
        over = lines[number] if number >= 0 else ""
        if not over.lstrip().startswith("#") or len(over) - len(over.lstrip()) != key.start_mark.column:
            break
        above.insert(0, over.strip().removeprefix("#").strip())
    return Comment(tuple(above), rest.removeprefix("#").strip() if rest.startswith("#") else "")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Sections that stand twice are written twice."""
        return True
