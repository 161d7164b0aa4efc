"""Methods by name, their options, and a user's own file."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
from pathlib import Path

import pytest

from srft import SrftError, get_method, methods
from srft.objective import registry
from srft.objective.options import OPTIONS, option_meaning
from tests.helpers import ROOT, python
from tests.objective.steps import micro_batch, policy, random_step


def test_the_four_methods_say_what_they_need() -> None:
    needs = {name: m.needs({k: d for k, (_, d) in m.options.items()}) for name, m in methods().items()}
    assert needs["sft"] == {"demonstrations"}
    assert needs["grpo"] == {"rollouts", "old_logp"}
    assert needs["sft+rl"] == {"demonstrations", "rollouts", "old_logp"}
    assert needs["srft"] == {"demonstrations", "rollouts"}
    assert "means" in methods()["srft"].needs({"rollout_signal": "binary", "entropy_scope": "batch"})


@pytest.mark.parametrize(("word", "advice"), [("srtf", "srft"), ("grop", "grpo")])
def test_unknown_method_suggests(word: str, advice: str) -> None:
    with pytest.raises(SrftError, match=f"Did you mean '{advice}'"):
        get_method(word)


def test_unknown_preset() -> None:
    with pytest.raises(SrftError, match="paper-zh"):
        get_method("srft").preset("paper")


def test_a_new_file_in_the_folder_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the package imports every module of its folder; none is listed by hand."""
    package = importlib.import_module("srft.objective.methods")
    (tmp_path / "another.py").write_text(
        "from srft.objective.registry import method\n"
        "@method('from-a-new-file-for-test', needs={'rollouts'})\n"
        "def f(t): return {}\n"
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_METHODS", methods())
    exec(Path(str(package.__file__)).read_text(), vars(package))
    assert "from-a-new-file-for-test" in methods()


def test_own_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from srft.objective import Terms, Tokens, method, nll\n"
        "@method('half-sft-for-test', needs={'demonstrations'})\n"
        "def half(t: Tokens, *, scale: float = 0.5) -> Terms:\n"
        "    '''Half of SFT.'''\n"
        "    return {'half': scale * nll(t.demo)}\n"
    )
    mine = get_method("half-sft-for-test", file)
    step = random_step()
    t = micro_batch(policy(), step, list(range(len(step.tokens))))
    assert float(mine(t)["half"]) == pytest.approx(0.5 * float(get_method("sft")(t)["sft"]))
    assert mine.options == {"scale": (float, 0.5)}
    with pytest.raises(SrftError, match="no such Python file"):
        get_method("x", tmp_path / "absent.py")


def test_the_list_that_is_shown_is_that_of_the_code() -> None:
    """`srft methods` reads a file, as the code itself needs torch; python scripts/methods_list.py writes it."""
    code = "from srft.objective.registry import methods_list; print(methods_list(), end='')"
    result = python("-c", code)  # of its own: other tests register methods
    assert result.returncode == 0, result.stderr
    assert (ROOT / "src/srft/objective/methods.txt").read_text(encoding="utf-8") == result.stdout


def test_every_option_is_explained() -> None:
    own = {name: m for name, m in methods().items() if m.function.__module__.startswith("srft.")}
    options = [(name, option) for name, method in own.items() for option in method.options]
    assert [place for place in options if not option_meaning(*place)] == []
    known = {option for _, option in options} | {f"{name}.{option}" for name, option in options}
    assert set(OPTIONS) <= known


@pytest.mark.parametrize("name", sorted(methods()))
def test_help_shows_the_options_of_a_method(name: str) -> None:
    method = methods()[name]
    assert inspect.signature(method) == inspect.signature(method.function)
    page = pydoc.plain(pydoc.render_doc(method))
    assert method.summary in " ".join(page.split())
    assert method.source in page
    for option, (_, default) in method.options.items():
        assert re.search(rf"^ +{option}: .+ = {re.escape(repr(default))}$", page, re.MULTILINE)
    for preset in method.presets:
        assert f"{preset}: " in page
