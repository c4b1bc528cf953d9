"""A real Ollama at OLLAMA_BASE_URL; without one these tests are skipped, with the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from namel3ss_ollama import OllamaProvider

MODEL = "smollm2:135m"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def base_url(live_server: str) -> Iterator[str]:
    """The server's address; it has a model "llama3" for as long as the tests run, so that promised code works."""
    url = live_server
    if url.startswith("embedded:"):
        yield url
        return
    httpx.post(f"{url}/api/copy", json={"source": MODEL, "destination": "llama3"}).raise_for_status()
    yield url
    httpx.request("DELETE", f"{url}/api/delete", json={"model": "llama3"})


@pytest.fixture(params=["aiohttp", "httpx"])
async def make(base_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., OllamaProvider]]:
    made: list[OllamaProvider] = []

    def factory(**settings: Any) -> OllamaProvider:
        fixed = {"model": MODEL, "base_url": base_url, "transport": request.param, "temperature": 0, "seed": 1}
        made.append(OllamaProvider(**{**fixed, **settings}))
        return made[-1]

    yield factory
    for provider in made:
        assert provider.stats().running == 0
        await provider.aclose()
