"""Load settings that change between requests, on servers of several versions."""

from __future__ import annotations

from typing import Any

import pytest

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.testing import OllamaServer

ASK = [{"role": "user", "content": "Hi"}]


async def ask(provider: OllamaProvider, how: str, **settings: Any) -> None:
    if how == "stream":
        async for _ in provider.stream_chat(ASK, **settings):
            pass
    else:
        await provider.agenerate("Hi", **settings)


@pytest.mark.parametrize("how", ["generate", "stream"])
@pytest.mark.parametrize(("version", "reloads"), [("0.12.6", False), ("0.30.0", True), ("0.40", True)])
async def test_a_changed_shift_is_reported_where_it_reloads_the_model(
    version: str, reloads: bool, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with OllamaServer(version=version) as server:
        async with OllamaProvider("llama3.2", server.url) as provider:
            for shift in (None, True, False, None):
                await ask(provider, how, shift=shift)
    assert caplog.text.count("because shift changed between requests") == int(reloads)
    assert len(caplog.records) == int(reloads)


async def test_a_reload_for_another_reason_is_not_blamed_on_shift(caplog: pytest.LogCaptureFixture) -> None:
    with OllamaServer(version="0.12.6") as server:
        async with OllamaProvider("llama3.2", server.url) as provider:
            await provider.agenerate("Hi")
            await provider.agenerate("Hi", shift=False, num_ctx=512)
    assert [record.getMessage() for record in caplog.records] == [
        "the server reloaded llama3.2 (1.5 s) because num_ctx changed between requests; send the same value each time"
    ]


async def test_a_preloaded_model_is_not_reloaded() -> None:
    with OllamaServer(version="0.40") as server:
        async with OllamaProvider("llama3.2", server.url, shift=False, num_ctx=512) as provider:
            await provider.preload()
            response = await provider.agenerate("Hi")
    assert response.metadata["load_duration"] < 1_000_000_000
    assert server.requests[0].payload["shift"] is False
