"""The notebooks of the documentation, executed as a reader would."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


def output(cell: Any) -> str:
    """What a cell showed, as text and as HTML."""
    shown = [o.get("text", "") + "".join(map(str, o.get("data", {}).values())) for o in cell.get("outputs", [])]
    return "".join(shown)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: scripts/setup test")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: scripts/setup test")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: scripts/setup test")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm's, where there is no ipywidgets
    notebook = nbformat.read(file, as_version=4)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": tmp_path}}).execute()
    shown = {cell.source: output(cell) for cell in notebook.cells}
    training = next(text for source, text in shown.items() if "run = train(" in source)
    assert "step reward" in training  # a notebook shows progress by default
    assert "Done: runs/" in training
    assert not any(word in text for text in shown.values() for word in ("\x1b", "Loading weights", "Warning"))
    assert "<caption>evaluation at step 0 →" in shown["run"]
