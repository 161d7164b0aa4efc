"""What a stranger wrote is shown as text: nothing in it steers the terminal, is read as markup, or gives a secret away."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from srft.cli import main
from srft.console import SafeConsole, safe_console
from srft.errors import SrftError, reason
from srft.evaluation.report import Table as Results
from srft.evaluation.report import markdown
from srft.safe_text import holds_secret, printable, redacted
from srft.training.bar import make_bar
from srft.training.display import Display

EVIL = "\x1b[2J\x1b]52;c;cm0gLXJm\x07\x1b]8;;http://evil\x1b\\click\r\b\x9b31m\u202egnp\u2066.\ud800[bold]x[/x] :smile:"
STEERING = [chr(code) for code in (*range(32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0xD800) if chr(code) not in "\n\t"]


def is_harmless(text: str) -> bool:
    return not any(character in text for character in STEERING)


def test_every_character_that_steers_a_terminal_is_replaced_by_one_that_is_seen() -> None:
    assert printable("".join(STEERING)) == "".join(map(printable, STEERING))
    assert is_harmless(printable(EVIL))
    assert len(printable(EVIL)) == len(EVIL)
    assert printable("\x1b[31m") == "␛[31m"
    assert printable("a\tb\nc é 数 😀 مرحبا") == "a\tb\nc é 数 😀 مرحبا"


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("make", [str, Text, Panel, lambda text: Text.assemble(("styled", "red"), text)])
def test_the_console_shows_text_alone(make: Any, own: bool) -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, width=300) if own else safe_console(Console(file=file, width=300))
    console.print(make(EVIL))
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    console.print(table)
    console.rule(EVIL)
    shown = file.getvalue()
    assert is_harmless(shown)
    assert shown.count("[bold]x[/x] :smile:") == 5


def test_the_consoles_own_codes_stay() -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, color_system="standard", width=80)
    console.print(Text.assemble(("Error", "red bold"), f" {EVIL}"), highlight=False)
    assert file.getvalue().startswith("\x1b[1;31mError\x1b[0m ␛[2J")


def test_a_users_console_records_what_is_shown() -> None:
    console = Console(record=True, file=io.StringIO(), width=80)
    safe_console(console).print("seen")
    assert "seen" in console.export_text()


def test_a_display_on_a_users_console_shows_text_alone() -> None:
    file = io.StringIO()
    display = Display(Console(file=file, force_terminal=True, color_system=None, width=300), total=3)
    display.say(EVIL)
    display.table(Results(EVIL, [EVIL, "b"], [[EVIL, "1"]]))
    text = file.getvalue()
    assert is_harmless(text)
    bar = make_bar(display.console)
    assert bar is not None
    bar.show("step 1/3 evaluating [/x]", 1, 2)  # is no markup
    bar.hide()
    assert "evaluating [/x]" in file.getvalue()


def test_errors_show_text_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "x.jsonl"
    data.write_text('{"pro\\u001b]52;c;x\\u0007mpt": "q"}\n')
    monkeypatch.setattr(sys, "argv", ["srft", "contamination", str(data), "--benchmarks", "[/x].jsonl"])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().err
    assert ended.value.code == 2
    assert "␛]52;c;x␇mpt" in shown
    assert is_harmless(shown)
    error = SrftError(EVIL, where=EVIL, fix=EVIL)
    assert all(map(is_harmless, (str(error), error.what, error.where, error.fix)))


def test_a_traceback_shows_text_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MY_API_KEY", "abcdefgh12345")
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)

    def fail() -> None:
        raise ValueError("\x1b[2Jkey abcdefgh12345")

    monkeypatch.setattr("srft.cli.app", fail)
    with pytest.raises(ValueError, match="key") as error:
        main()
    sys.excepthook(error.type, error.value, error.tb)
    shown = capsys.readouterr().err
    assert shown.endswith("ValueError: ␛[2Jkey ***\n")
    assert "abcdefgh12345" not in shown


def test_grade_shows_ids_and_answers_as_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"id": "\\u001b[2J[red]", "gold": "1", "candidate": "2\\u001b[2J", "expected": true}\n')
    monkeypatch.setattr(sys, "argv", ["srft", "grade", "--file", str(cases), "--workers", "1"])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert "␛[2J[red]: gold '1'" in shown
    assert is_harmless(shown)


def test_markdown_tables_keep_their_cells() -> None:
    settings = {
        "model": "a|b\nc\x1b", "seed": 0, "precision": "fp32",
        "protocol": {
            "name": "srft", "template": "t", "temperature": 1, "top_p": 1, "max_response_length": 1, "extract": "boxed",
            "grader": "math",
        },
    }  # fmt: skip
    held_out = {
        "x|y": {"problems": 1, "demonstrations": 1, "demo_nll": 1.0, "demo_perplexity": 2.7, "source": {"rows": 1}}
    }
    text = markdown({"settings": settings, "benchmarks": held_out})
    assert "| x\\|y | 1 | 1.0000 | 2.700 |" in text
    assert is_harmless(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pass@host/v1", "https://***@host/v1"),
        ("https://hf_abcdefghijklmnopqrstu@huggingface.co/a", "https://***@huggingface.co/a"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer ***"),
        ("sk-proj-abcdefghijklmnopqrstuvwx", "***"),
        ("the environment's abcdefgh12345.", "the environment's ***."),
        ("a given one: short", "a given one: ***"),
        ("https://host:8000/v1 user@host, a:b@c, disk-usage, ask-me-anything-about-this", None),
    ],
)
def test_secrets_are_redacted(monkeypatch: pytest.MonkeyPatch, text: str, shown: str | None) -> None:
    monkeypatch.setenv("MY_API_KEY", "abcdefgh12345\n")
    monkeypatch.setenv("OTHER_KEY", "a")  # too short to be one
    assert redacted(text, "short") == (text if shown is None else shown)
    assert str(SrftError(text, where="x")) == f"x: {redacted(text)}"
    assert holds_secret(text) == (shown is not None and "***" in redacted(text) and "environment" not in text)


def test_the_reason_of_an_error_is_a_line() -> None:
    assert reason(ValueError("a\nb")) == "a"
    assert reason(ValueError()) == "ValueError"
    assert reason(KeyError("x")) == "KeyError 'x'"
