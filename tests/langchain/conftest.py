"""Fixtures of the adapter's tests: the test server, a real server, and replayed answers of a real server.

Cassettes are recorded by `pytest tests/langchain --record` from the server at OLLAMA_BASE_URL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from recordings import NOWHERE, played

from langchain_namel3ss_ollama import ChatOllama
from namel3ss_ollama import OllamaProvider, instant_retries
from namel3ss_ollama.testing import OllamaServer


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No tracing, no settings from the environment, no waits between retries."""
    for name in ("LC_OUTPUT_VERSION", "OLLAMA_BASE_URL", "OLLAMA_HOST", "OLLAMA_HOSTS", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")
    with instant_retries():
        yield


@pytest.fixture
def chat(ollama_server: OllamaServer) -> Callable[..., ChatOllama]:
    """Makes models that talk to the test server."""

    def make(model: str = "llama3.2", **arguments: Any) -> ChatOllama:
        return ChatOllama(**{"model": model, "base_url": ollama_server.url, **arguments})

    return make


@pytest.fixture
def player(request: pytest.FixtureRequest) -> Iterator[OllamaProvider]:
    """A provider that replays the answers of the real server from the test's cassette."""
    recording = request.config.getoption("--record")
    url = request.getfixturevalue("live_server") if recording else NOWHERE
    name = f"{request.cls.__name__ if request.cls else ''}-{request.node.name}"
    provider = OllamaProvider("unset", url, transport="httpx")
    with played(name, folder="langchain", recording=recording):
        yield provider
        provider.close()
