"""docs/tuning.md: its code runs, and its tables are complete."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from namel3ss_ollama import AtOnce, OllamaProvider, WindowCost
from namel3ss_ollama.testing import OllamaServer
from namel3ss_ollama.tuning import Measured, advise

PAGE = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_block_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(BLOCKS) == 1
    with OllamaServer() as server:
        monkeypatch.setenv("OLLAMA_BASE_URL", server.url)
        exec(compile(BLOCKS[0].replace("budget=20", "budget=3"), "docs/tuning.md", "exec"), {"__name__": "__main__"})
    out, err = capsys.readouterr()
    assert err == ""
    assert "1 at once: " in out
    assert "100%: done" in out
    assert "OLLAMA_NUM_PARALLEL" in out


def test_the_tables_list_measurements_and_recommendations() -> None:
    named = set(re.findall(r"`([a-z_0-9]+)`", PAGE))
    fields = {field.name for kind in (AtOnce, WindowCost) for field in dataclasses.fields(kind)}
    fields |= {"on_gpu", *(one.name for one in advise(Measured((AtOnce(1, 1.0),))))}
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed <= fields
    assert listed >= {one.name for one in advise(Measured((AtOnce(1, 1.0),)))}
    assert named >= listed
    assert hasattr(OllamaProvider, "tune")
