"""For all tests: no environment of the machine's reaches them, and shared modules get pytest's assertions."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("fault_table", "fronts", "recordings", "scenarios")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="record the cassettes anew from OLLAMA_BASE_URL")


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("live") is None and not request.config.getoption("--record"):
        for name in ("OLLAMA_HOST", "OLLAMA_BASE_URL", "OLLAMA_API_KEY", "OLLAMA_MODEL"):
            monkeypatch.delenv(name, raising=False)
