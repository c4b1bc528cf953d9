"""Every notebook runs from top to bottom without an Ollama, and is stored with its outputs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 200_000  # bytes
SILENT = ("import os", "from llama_index.core import Document", "await provider.aclose()")
"""The beginnings of the cells without output."""
SERVED = {"06_several_hosts", "07_batches"}
"""Notebooks that start servers of `namel3ss_ollama.testing`, and need no model."""


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


execute = load("execute")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_seven() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart",
        "02_langchain",
        "03_llama_index_rag",
        "04_agents_with_streaming",
        "05_choosing_concurrency",
        "06_several_hosts",
        "07_batches",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_with_its_outputs_only(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < LARGEST
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    assert "Warning" not in text
    for cell in code_cells(notebook):
        assert {output.output_type for output in cell.outputs} <= {"stream", "execute_result", "display_data"}
        assert cell.outputs or cell.source.startswith(SILENT), cell.source
        names = [output.name for output in cell.outputs if output.output_type == "stream"]
        assert len(names) == len(set(names)), "run notebooks/execute.py: a stream is stored in pieces"
    if path.stem in ("01_quickstart", "03_llama_index_rag", "05_choosing_concurrency", *SERVED):
        assert "image/png" in text


def ran(path: Path) -> Any:
    """The notebook after a run; checks that its outputs are of the stored types."""
    stored, ran = nbformat.read(path, as_version=4), execute.cleaned(execute.execute(path))
    for before, after in zip(code_cells(stored), code_cells(ran), strict=True):
        assert [o.output_type for o in after.outputs] == [o.output_type for o in before.outputs], after.source
    return ran


@pytest.mark.embedded
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem not in SERVED], ids=lambda path: path.stem)
def test_it_runs(path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OLLAMA_BASE_URL", "OLLAMA_MODEL", "OLLAMA_NUM_PARALLEL"):
        monkeypatch.delenv(name, raising=False)
    ran(path)


def printed_by(notebook: Any) -> str:
    return "".join(o.text for cell in code_cells(notebook) for o in cell.outputs if o.output_type == "stream")


@pytest.mark.timeout(120)
def test_no_answer_is_lost_with_a_host() -> None:
    printed = printed_by(ran(FOLDER / "06_several_hosts.ipynb"))
    assert "\n48 answers, 0 failed\n" in printed, printed


@pytest.mark.timeout(120)
def test_a_batch_that_was_cancelled_resumes() -> None:
    printed = printed_by(ran(FOLDER / "07_batches.ipynb"))
    assert "cancelled, with at least half of the rows done: True\nrows with an answer: 120\n" in printed, printed
    assert "the second run asked the rest: True\nasked twice no more than were under way: True\n" in printed, printed
