"""The template that settings ask for: a packaged one or a Jinja file, with its system message and examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from srft.data.files import read_text
from srft.data.load import load_problems, problems_from_rows
from srft.data.problem import Problem
from srft.data.settings import FewShot, PromptSettings
from srft.data.template import TEMPLATES, Template
from srft.errors import SrftError


def make_template(settings: PromptSettings) -> Template:
    """The template of `data.template`, `data.system` and `data.few_shot`.

    Raises:
        SrftError: its file, or the file of examples, is missing or malformed; an example has no solution.
    """
    name = settings.template
    template = TEMPLATES[name] if name in TEMPLATES else Template(chat_template=_jinja(name))
    if settings.system is not None:
        template = replace(template, system=settings.system)
    return replace(template, examples=_examples(settings.few_shot)) if settings.few_shot else template


def _jinja(name: str) -> str:
    return read_text(Path(name).expanduser(), f"data.template: {name}")


def _examples(few_shot: FewShot) -> tuple[Problem, ...]:
    if few_shot.path is not None:
        examples = load_problems(few_shot.path, limit=few_shot.count, columns=few_shot.columns)
    else:
        rows = few_shot.rows[: few_shot.count]
        examples = problems_from_rows(rows, columns=few_shot.columns, name="few_shot.rows") if rows else []
    for example in examples:
        if not example.demonstrations:
            raise SrftError(
                "an example without a solution", where=example.where, fix="Give it a `completion` or `solution`."
            )
    return tuple(examples)
