"""Deadlines through the provider: what counts towards them, what does not, and which waits are never started."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from namel3ss_ollama import LLMTimeoutError, OllamaProvider, RetryPolicy, ServerBusyError, StreamConfig
from namel3ss_ollama.testing import Gate, OllamaServer

ASK = [{"role": "user", "content": "count"}]
TEXT = "one two three four"
STREAM_TIMEOUT = 0.2
TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}

Make = Callable[..., OllamaProvider]


@pytest.fixture
def make_waiting(ollama_server: OllamaServer, transport: str) -> Any:
    """Makes providers outside `instant_retries`: backoffs take their real time."""

    def factory(**options: Any) -> OllamaProvider:
        return OllamaProvider("llama3.2", ollama_server.url, transport=transport, **options)  # type: ignore[arg-type]

    return factory


def uses(provider: OllamaProvider, **options: Any) -> dict[str, Callable[[], Any]]:
    async def stream() -> None:
        async for _ in provider.stream_chat(ASK, **options):
            pass

    return {
        "achat": lambda: provider.achat(ASK, **options),
        "at once": lambda: provider.agenerate("count", stream=False, **options),
        "stream": stream,
    }


USES = ["achat", "at once", "stream"]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("where", ["timeout", "stream_timeout", "the provider's timeout", "retry"])
async def test_a_wait_past_the_deadline_is_not_started(
    make_waiting: Make, ollama_server: OllamaServer, use: str, where: str
) -> None:
    # Once wrong: it waited for the entire timeout, and the error named the timeout instead of the busy server
    ollama_server.fault("status", status=503, retry_after=30)
    options: dict[str, Any] = {"timeout": 2.0} if where == "timeout" else {}
    if where == "stream_timeout":
        options["stream_config"] = StreamConfig(stream_timeout=2.0)
    settings: dict[str, Any] = {"retry": RetryPolicy(deadline=2.0)} if where == "retry" else {}
    if where == "the provider's timeout":
        settings["timeout"] = 2.0
    async with make_waiting(**settings) as provider:
        began = time.monotonic()
        with pytest.raises(ServerBusyError) as caught:
            await uses(provider, **options)[use]()
        assert time.monotonic() - began < 1.0
        assert (caught.value.status_code, caught.value.retry_after) == (503, 30)
        assert len(ollama_server.requests) == 1
        stats = provider.stats()
        assert (stats.running, stats.retries, stats.generations_failed) == (0, 0, 1)


@pytest.mark.parametrize("use", USES)
async def test_a_backoff_past_the_deadline_is_not_started(
    make_waiting: Make, ollama_server: OllamaServer, use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("namel3ss_ollama.retrier.random.random", lambda: 1.0)
    ollama_server.fault("status", status=503)
    retry = RetryPolicy(attempts=10, wait_initial=0.02, wait_max=100.0)
    async with make_waiting(retry=retry) as provider:
        began = time.monotonic()
        with pytest.raises(ServerBusyError):
            await uses(provider, timeout=0.25)[use]()
        assert time.monotonic() - began < 0.25
        # 0.02 + 0.04 + 0.08 s fit, 0.16 s more would not
        assert 3 <= len(ollama_server.requests) <= 5
        assert provider.stats().retries == len(ollama_server.requests) - 1


async def test_an_embedding_does_not_wait_past_its_deadline(make_waiting: Make, ollama_server: OllamaServer) -> None:
    ollama_server.fault("status", status=503, retry_after=30)
    async with make_waiting() as provider:
        began = time.monotonic()
        with pytest.raises(ServerBusyError):
            await provider.embed("a", model="all-minilm", timeout=2.0)
        assert time.monotonic() - began < 1.0
        assert len(ollama_server.requests) == 1


@pytest.mark.parametrize("use", ["achat", "stream"])
async def test_tool_call_timeout_applies_only_to_requests_with_tools(
    make: Make, ollama_server: OllamaServer, use: str
) -> None:
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate)
    silence = StreamConfig(first_chunk_timeout=0.05, chunk_timeout=0.05, tool_call_timeout=60)
    provider = make(retry=RetryPolicy.off(), stream_config=silence)
    task = asyncio.ensure_future(uses(provider, tools=[TOOL])[use]())
    await ollama_server.wait_for_async(lambda s: gate.waiting == 1)
    with pytest.raises(LLMTimeoutError, match="first_chunk_timeout"):
        await uses(provider)[use]()  # while the request with tools keeps waiting
    gate.open()
    await task


@pytest.mark.parametrize("use", USES)
async def test_stream_timeout_does_not_count_the_wait_for_a_slot(
    make: Make, ollama_server: OllamaServer, use: str
) -> None:
    # Once wrong: of four answers of a second each, one at a time, stream_timeout=2 let one through
    provider = make(max_concurrent=1, stream_config=StreamConfig(stream_timeout=STREAM_TIMEOUT))
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate)
    calls = uses(provider)
    tasks = [asyncio.ensure_future(calls[use]()) for _ in range(4)]
    for number in range(4):
        await ollama_server.wait_for_async(lambda s, n=number: gate.waiting == 1 and len(s.requests) == n + 1)
        await asyncio.sleep(STREAM_TIMEOUT / 2)  # an answer takes half of the timeout; four take twice the timeout
        gate.step()
    await asyncio.gather(*tasks)
    assert provider.stats().generations_succeeded == 4
    assert provider.stats().queue_seconds > STREAM_TIMEOUT * 2  # 0.5 + 1 + 1.5 times the timeout


async def test_timeout_does_count_the_wait_for_a_slot(make: Make, ollama_server: OllamaServer) -> None:
    provider = make(max_concurrent=1)
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate)
    first = asyncio.create_task(provider.achat(ASK))
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    with pytest.raises(LLMTimeoutError) as caught:
        await provider.achat(ASK, timeout=0.05)
    assert caught.value.deadline == "timeout"
    assert len(ollama_server.requests) == 1
    gate.open()
    await first


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("deadline", ["chunk_timeout", "first_chunk_timeout"])
async def test_a_blocked_event_loop_is_not_a_stalled_server(
    make: Make, ollama_server: OllamaServer, use: str, deadline: str
) -> None:
    # Once wrong: another task blocked the loop, and tokens already in the socket were reported as a stall
    gate = Gate()
    ollama_server.reply(TEXT, gates={0 if deadline == "first_chunk_timeout" else 1: gate})
    provider = make(stream_config=StreamConfig(**{deadline: 0.15}))
    task = asyncio.ensure_future(uses(provider)[use]())
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    while deadline == "chunk_timeout" and use == "stream" and not provider.stats().running:
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)  # the request waits for the next chunk
    gate.open()
    ollama_server.wait_for(lambda s: s.requests[0].ended is not None)  # blocks this loop, not the server
    blocked_until = time.monotonic() + 0.25
    while time.monotonic() < blocked_until:
        pass
    await task
    assert provider.stats().generations_succeeded == 1


async def test_a_busy_loop_does_not_hide_a_stalled_server(make: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT, gates={1: Gate()})
    provider = make(stream_config=StreamConfig(chunk_timeout=0.1))
    stop = False

    async def busy() -> None:
        while not stop:
            time.sleep(0.03)  # noqa: ASYNC251 -- it must block
            await asyncio.sleep(0)

    other = asyncio.create_task(busy())
    with pytest.raises(LLMTimeoutError, match="chunk_timeout") as caught:
        await asyncio.wait_for(provider.achat(ASK), 10)
    assert caught.value.partial is not None
    assert caught.value.partial.content == "one"
    stop = True
    await other
