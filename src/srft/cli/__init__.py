"""The command line. A command is one function; what it needs is imported when it runs, so that help costs little."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import Annotated

import typer

from srft.cli.app import Command, Group
from srft.cli.doctor import doctor
from srft.cli.evaluate import EvalCommand, alignment_tax, contamination, evaluate, judge
from srft.cli.export import export
from srft.cli.grade import grade
from srft.cli.plan import plan
from srft.cli.recipes import benchmarks, methods, recipes
from srft.cli.select import select
from srft.cli.train import RecipeCommand, train
from srft.errors import SrftError
from srft.safe_text import printable, redacted

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Typer's help in boxes takes longer than everything else together
    help="Post-training for reasoning models: supervised and reinforcement fine-tuning in one stage.",
)
# Typer cuts a docstring's first sentence after 45 characters, so each has its line for `srft --help`.
app.command(cls=RecipeCommand, short_help="Train as a recipe says")(train)
app.command(cls=RecipeCommand, short_help="Memory, time and cost on any hardware")(plan)
app.command(cls=Command, short_help="List the packaged recipes, show or copy one")(recipes)
app.command(cls=Command, short_help="List the methods, show one with its options")(methods)
app.command(cls=Command, short_help="List the benchmarks")(benchmarks)
app.command(cls=Command, short_help="What works on this machine, and what would not")(doctor)
app.command(cls=Command, short_help="Select demonstrations or pairs from a run's rollouts")(select)
app.command(cls=Command, short_help="Write a run's model as a folder that loads anywhere")(export)
app.command("eval", cls=EvalCommand, short_help="Evaluate a model by the papers' protocols")(evaluate)
app.command(cls=Command, short_help="Search training prompts for benchmark problems")(contamination)
app.command(cls=Command, short_help="Score general abilities, to see what training cost")(alignment_tax)
app.command(cls=Command, short_help="Have a judge compare or rate a model's answers")(judge)
app.command(
    cls=Command,
    short_help="Grade an answer, or a file of them",
    context_settings={"ignore_unknown_options": True},  # an answer may begin with a minus
)(grade)


def _show_version(asked: bool) -> None:
    if asked:
        from srft import __version__

        typer.echo(f"srft {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Post-training for reasoning models: supervised and reinforcement fine-tuning in one stage."""


def main() -> None:
    """Entry point: an error of the user's is told in two lines, any other keeps its traceback."""
    try:
        app()
    except SrftError as error:
        from rich.text import Text

        from srft.console import SafeConsole

        console = SafeConsole(stderr=True, soft_wrap=True)
        console.print(Text.assemble(("Error", "red bold"), f" {error}"), highlight=False)
        if os.environ.get("SRFT_DEBUG"):
            raise
        sys.exit(2)
    except Exception:
        sys.excepthook = _show_traceback
        raise


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python's, without what a stranger's text would do to the terminal, and without secrets."""
    sys.stderr.write(printable(redacted("".join(traceback.format_exception(kind, error, trace)))))
