"""Providers against a real HTTP server on loopback, over both transports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from namel3ss_ollama import OllamaProvider, RetryPolicy, instant_retries
from namel3ss_ollama.testing import OllamaServer

MODEL = "llama3.2"
Make = Callable[..., OllamaProvider]


@pytest.fixture(params=["aiohttp", "httpx"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def make(ollama_server: OllamaServer, transport: str) -> AsyncIterator[Make]:
    """Makes providers for the server; closed after the test, which fails if anything of them is left open."""
    made: list[OllamaProvider] = []

    def factory(**options: Any) -> OllamaProvider:
        settings: dict[str, Any] = {"model": MODEL, "base_url": ollama_server.url, "transport": transport, **options}
        made.append(OllamaProvider(**settings))
        return made[-1]

    with instant_retries():
        yield factory
    for provider in made:
        assert provider.stats().running == 0
        assert provider.stats().queued == 0
        await provider.aclose()
    await ollama_server.wait_for_async(lambda s: s.open_connections == 0)


@pytest.fixture
def provider(make: Make) -> OllamaProvider:
    return make()


NO_RETRY = RetryPolicy.off()
