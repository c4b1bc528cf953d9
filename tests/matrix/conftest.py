"""Fixtures for all tests of the matrix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from namel3ss_ollama import instant_retries


@pytest.fixture(autouse=True)
def _quiet_frameworks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No tracing, no waits between retries."""
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")
    with instant_retries():
        yield
