"""Synchronous calls, several event loops, threads. What needs a separate interpreter is in `test_uses.py`."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from namel3ss_ollama import LLMTimeoutError, ModelNotFoundError, OllamaProvider, StreamConfig, run_sync
from namel3ss_ollama.testing import Gate, OllamaServer

ASK = [{"role": "user", "content": "count"}]
TEXT = "one two three four five six"


@pytest.fixture(params=["aiohttp", "httpx"])
def provider(ollama_server: OllamaServer, request: pytest.FixtureRequest) -> Iterator[OllamaProvider]:
    ollama_server.reply(TEXT)
    with OllamaProvider("llama3.2", ollama_server.url, transport=request.param, max_concurrent=3) as provider:
        yield provider
    assert provider.stats().running == 0


def test_the_sync_twins(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    assert provider.generate("count").content == TEXT
    assert provider.chat(ASK).content == TEXT
    assert "".join(chunk.content for chunk in provider.stream("count")) == TEXT
    stream = provider.stream(ASK)
    assert "".join(chunk.content for chunk in stream) == TEXT
    assert (stream.end, stream.text) == ("done", TEXT)
    assert stream.response is not None
    assert stream.usage == stream.response.usage == stream.partial.usage
    assert [r.content for r in provider.batch(["a", "b", ASK])] == [TEXT] * 3
    assert [r.path for r in ollama_server.requests[:2]] == ["/api/generate", "/api/chat"]
    with pytest.raises(ModelNotFoundError):
        provider.generate("count", model="nope")
    results = provider.batch(["a", "b"], model="nope", return_exceptions=True)
    assert [type(r) for r in results] == [ModelNotFoundError] * 2


async def test_sync_calls_inside_a_running_loop(provider: OllamaProvider) -> None:
    assert provider.chat(ASK).content == TEXT
    assert "".join(chunk.content for chunk in provider.stream(ASK)) == TEXT
    assert (await provider.achat(ASK)).content == TEXT
    await provider.aclose()


def test_leaving_a_sync_stream_closes_it(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    ollama_server.reset()
    ollama_server.reply(TEXT, gates={2: Gate()})
    for chunk in provider.stream(ASK):
        assert chunk.content == "one"
        break
    gc.collect()
    ollama_server.wait_for(lambda s: s.requests[-1].outcome == "client_closed")
    with provider.stream(ASK) as stream:
        next(iter(stream))
    ollama_server.wait_for(lambda s: s.requests[-1].outcome == "client_closed")
    assert stream.end == "cancelled"
    assert stream.text == "one"


def test_cancel_a_sync_stream_from_another_thread(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    ollama_server.reset()
    gate = Gate()
    ollama_server.reply(TEXT, gates={2: gate})
    stream = provider.stream(ASK)
    both = threading.Event()

    def cancel() -> None:
        both.wait(10)
        stream.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    for chunk in stream:
        if chunk.content == " two":
            both.set()
    assert stream.text == "one two"
    thread.join()
    assert stream.end == "cancelled"
    ollama_server.wait_for(lambda s: s.requests[-1].outcome == "client_closed")


def test_sync_deadlines(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    ollama_server.fault("stall_mid_stream")
    config = StreamConfig(chunk_timeout=0.05)
    with pytest.raises(LLMTimeoutError):
        provider.chat(ASK, stream_config=config)
    stream = provider.stream(ASK, stream_config=config)
    with pytest.raises(LLMTimeoutError):
        list(stream)
    assert (stream.end, stream.text) == ("error", "one")


def test_a_sync_call_on_the_background_loop_is_refused(provider: OllamaProvider) -> None:
    async def inside() -> str:
        return provider.generate("count").content

    with pytest.raises(RuntimeError, match="await the async method"):
        run_sync(inside())


def test_one_provider_in_many_loops(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    async def ask() -> str:
        first = await provider.achat(ASK)
        async for chunk in provider.stream_chat(ASK):
            if chunk.done:
                break
        return first.content

    for _ in range(3):
        assert asyncio.run(ask()) == TEXT
    gc.collect()
    # Each loop closed its own connection when it ended, though the provider was never closed.
    ollama_server.wait_for(lambda s: s.open_connections == 0)


def test_a_loop_that_runs_again_gets_a_new_client(provider: OllamaProvider) -> None:
    loop = asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(provider.achat(ASK)).content == TEXT
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop._asyncgens_shutdown_called = False
        assert loop.run_until_complete(provider.achat(ASK)).content == TEXT
        loop.run_until_complete(provider.aclose())
    finally:
        loop.close()


def test_from_ten_threads(provider: OllamaProvider) -> None:
    def ask(number: int) -> str:
        if number % 3 == 0:
            return asyncio.run(provider.achat(ASK)).content
        if number % 3 == 1:
            return provider.chat(ASK).content
        return "".join(chunk.content for chunk in provider.stream(ASK))

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(ask, range(30))) == [TEXT] * 30


def test_the_limit_covers_loops_and_threads(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    ollama_server.reset()
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate)

    def ask(number: int) -> str:
        return asyncio.run(provider.achat(ASK)).content if number % 2 else provider.chat(ASK).content

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(ask, number) for number in range(8)]
        ollama_server.wait_for(lambda _: gate.waiting == 3)
        deadline = time.monotonic() + 10
        while provider.stats().queued < 5 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert (provider.stats().running, provider.stats().queued) == (3, 5)
        assert ollama_server.active_requests == 3
        gate.open()
        assert [f.result() for f in futures] == [TEXT] * 8


async def test_close_from_another_loop(ollama_server: OllamaServer) -> None:
    """Closing also closes the connections of other running loops, and the provider can be used again."""
    provider = OllamaProvider("llama3.2", ollama_server.url)
    await provider.achat(ASK)
    await asyncio.to_thread(provider.chat, ASK)
    assert ollama_server.open_connections == 2
    await provider.aclose()
    await ollama_server.wait_for_async(lambda s: s.open_connections == 0)
    await provider.achat(ASK)
    provider.close()  # from inside a running loop: closed when the loop resumes
    await ollama_server.wait_for_async(lambda s: s.open_connections == 0)


def test_a_dropped_provider_closes_its_connections(
    ollama_server: OllamaServer, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Frameworks' users never close a model: no warning, no log of unclosed sessions, no open connection."""

    def use(transport: Any) -> None:
        provider = OllamaProvider("llama3.2", ollama_server.url, transport=transport)
        provider.generate("x")
        next(iter(provider.stream("x")))

    for transport in ("aiohttp", "httpx") * 2:
        use(transport)
    gc.collect()
    ollama_server.wait_for(lambda s: s.open_connections == 0)

    async def within() -> None:
        await OllamaProvider("llama3.2", ollama_server.url).agenerate("x")
        gc.collect()
        await ollama_server.wait_for_async(lambda s: s.open_connections == 0)

    asyncio.run(within())
    assert (list(recwarn), caplog.text) == ([], "")


def test_ended_loops_are_not_remembered(provider: OllamaProvider) -> None:
    for _ in range(3):
        asyncio.run(provider.achat(ASK))
    assert len(provider._client.connections) == 0


async def test_the_promised_client_methods(ollama_server: OllamaServer) -> None:
    provider = await OllamaProvider("llama3.2", ollama_server.url).open()
    assert provider is provider.open()
    client = await provider._get_client()
    assert client is await provider._get_client()
    assert not client.is_closed
    await provider._close_client()
    assert client.is_closed
