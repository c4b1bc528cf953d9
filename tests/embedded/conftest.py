"""No model of the machine's reaches a test; those marked `embedded` have the small real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_binding import FakeBinding


@pytest.fixture(autouse=True)
def _no_models_of_the_machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    if request.node.get_closest_marker("embedded") is None:
        monkeypatch.setenv("NAMEL3SS_OLLAMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def binding(monkeypatch: pytest.MonkeyPatch) -> FakeBinding:
    """What takes the binding's place."""
    fake = FakeBinding()
    monkeypatch.setattr("namel3ss_ollama.embedded.engine.start", fake.start)
    return fake
