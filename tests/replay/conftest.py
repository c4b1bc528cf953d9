"""The scenarios from cassettes; `make record` records them again (see `recordings.py`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from recordings import NOWHERE, played

from namel3ss_ollama import OllamaProvider


@pytest.fixture(scope="session")
def promised_model(request: pytest.FixtureRequest) -> Iterator[None]:
    """While recording, the server has a model "llama3", so that promised code works as written."""
    if not request.config.getoption("--record"):
        yield
        return
    url = os.environ.get("OLLAMA_BASE_URL", "http://localhost:11434")
    httpx.post(f"{url}/api/copy", json={"source": "smollm2:135m", "destination": "llama3"}).raise_for_status()
    yield
    httpx.request("DELETE", f"{url}/api/delete", json={"model": "llama3"})


@pytest.fixture
def cassette(promised_model: None, request: pytest.FixtureRequest) -> Iterator[None]:
    with played(request.node.name.removeprefix("test_"), recording=request.config.getoption("--record")):
        yield


@pytest.fixture
def make(cassette: None, request: pytest.FixtureRequest) -> Callable[..., OllamaProvider]:
    recording = request.config.getoption("--record")
    url = os.environ.get("OLLAMA_BASE_URL", "http://localhost:11434") if recording else NOWHERE

    def factory(**settings: Any) -> OllamaProvider:
        fixed = {"model": "smollm2:135m", "base_url": url, "transport": "httpx", "temperature": 0, "seed": 1}
        return OllamaProvider(**{**fixed, **settings})

    return factory
