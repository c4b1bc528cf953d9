"""The counters and times of `stats()`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from namel3ss_ollama import (
    BadRequestError,
    LLMError,
    LLMTimeoutError,
    OllamaProvider,
    OutputValidationError,
    QueueFullError,
    RetryPolicy,
    StreamConfig,
)
from namel3ss_ollama.testing import Gate, OllamaServer

ASK = [{"role": "user", "content": "count"}]
TEXT = "one two three four"
Make = Callable[..., OllamaProvider]


class City(BaseModel):
    name: str


@pytest.mark.parametrize("how", ["queue_timeout", "timeout", "cancelled", "stream"])
async def test_the_queue_time_of_a_request_that_gave_up_counts(
    make: Make, ollama_server: OllamaServer, how: str
) -> None:
    # Once wrong: a request that gave up after a second was counted with no queue time at all
    provider = make(max_concurrent=1, queue_timeout=0.1 if how == "queue_timeout" else None)
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate)
    first = asyncio.create_task(provider.achat(ASK))
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    began = time.perf_counter()
    if how == "queue_timeout":
        with pytest.raises(QueueFullError):
            await provider.achat(ASK)
    elif how == "timeout":
        with pytest.raises(LLMTimeoutError):
            await provider.achat(ASK, timeout=0.1)
    elif how == "cancelled":
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(provider.achat(ASK), 0.1)
    else:
        stream = provider.stream_chat(ASK)
        asyncio.get_running_loop().call_later(0.1, stream.cancel)
        assert [chunk async for chunk in stream] == []
    waited = time.perf_counter() - began
    stats = provider.stats()
    assert 0.09 < stats.queue_seconds <= waited
    given_up = {"queue_timeout": "failed", "timeout": "failed", "cancelled": "cancelled", "stream": "cancelled"}[how]
    assert getattr(stats, f"generations_{given_up}") == 1
    gate.open()
    await first
    assert (provider.stats().generations_succeeded, provider.stats().first_token_seconds is not None) == (1, True)


async def test_other_requests_are_not_counted_as_generations(make: Make, ollama_server: OllamaServer) -> None:
    # Once wrong: one embedding of 640 texts, a preload and an unload were twelve generations
    provider = make()
    await provider.embed(["a"] * 640, model="all-minilm")
    await provider.preload()
    await provider.unload()
    await provider.list_models()
    await provider.show_model()
    ollama_server.fault("status", status=400, path="/api/embed")
    with pytest.raises(LLMError):
        await provider.embed("a", model="all-minilm")
    stats = provider.stats()
    assert (stats.embeddings_succeeded, stats.embeddings_failed, stats.embeddings_cancelled) == (10, 1, 0)
    assert (stats.generations_succeeded, stats.generations_failed, stats.generations_cancelled) == (0, 0, 0)
    assert stats.chunks == stats.completion_tokens == 0
    assert stats.prompt_tokens > 0
    assert stats.first_token_seconds is None
    gate = Gate()
    ollama_server.reset()
    ollama_server.reply(embeddings=[[1.0]], gate=gate)
    task = asyncio.create_task(provider.embed("a", model="all-minilm"))
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    task.cancel()
    await asyncio.wait({task})
    assert provider.stats().embeddings_cancelled == 1


@pytest.mark.parametrize("how", ["break", "cancel", "aclose", "drop"])
@pytest.mark.parametrize("by_hand", [True, False])
async def test_chunks_count_when_they_are_yielded(
    make: Make, ollama_server: OllamaServer, by_hand: bool, how: str
) -> None:
    # Once wrong: 322 chunks that one read had brought were counted although one was yielded
    provider = make()
    ollama_server.reply(" ".join(["word"] * 300))
    ollama_server.fault("lines_in_one_chunk")
    streams = [provider.stream_chat(ASK)]
    if by_hand:
        await anext(streams[0])
        if how == "cancel":
            streams[0].cancel()
        elif how == "aclose":
            await streams[0].aclose()
    else:
        async for _ in streams[0]:
            if how == "cancel":
                streams[0].cancel()
            elif how == "aclose":
                await streams[0].aclose()
            break
    streams.clear()
    while not provider.stats().streams_cancelled:
        await asyncio.sleep(0.001)
    assert provider.stats().chunks == 1


async def test_chunks_of_streams_that_end_by_themselves(make: Make, ollama_server: OllamaServer) -> None:
    provider = make(stream_config=StreamConfig(chunk_timeout=0.1))
    ollama_server.reply(TEXT)
    await provider.achat(ASK)
    assert provider.stats().chunks == 0  # it was assembled internally, and no chunk was yielded
    assert len([chunk async for chunk in provider.stream_chat(ASK)]) == provider.stats().chunks == 5
    limited = provider.stream_chat(ASK, stream_config=StreamConfig(max_chunks=2))
    assert len([chunk async for chunk in limited]) == 2
    assert provider.stats().chunks == 7
    ollama_server.fault("stall_mid_stream", at_token=3)
    with pytest.raises(LLMTimeoutError):
        async for _ in provider.stream_chat(ASK):
            pass
    stats = provider.stats()
    assert stats.chunks == 10
    assert (stats.streams_succeeded, stats.streams_timed_out, stats.generations_failed) == (2, 1, 1)


async def test_tokens_of_an_invalid_answer_count(make: Make, ollama_server: OllamaServer) -> None:
    # Once wrong: those of a stream counted as none
    provider = make()
    ollama_server.reply('{"title": "Rome"}')
    with pytest.raises(OutputValidationError) as caught:
        await provider.achat(ASK, format=City)  # the last of three answers; all of them count
    assert caught.value.response is not None
    assert caught.value.response.usage is not None
    tokens = caught.value.response.usage["completion_tokens"]
    before = provider.stats()
    assert before.completion_tokens == 3 * tokens > 0
    with pytest.raises(OutputValidationError):
        async for _ in provider.stream_chat(ASK, format=City):
            pass
    stats = provider.stats()
    assert stats.completion_tokens == 4 * tokens
    assert stats.prompt_tokens > before.prompt_tokens
    assert (stats.generations_failed, stats.streams_failed) == (2, 1)


@pytest.mark.parametrize("streaming", [True, False])
async def test_time_to_first_token_excludes_the_backoff(
    ollama_server: OllamaServer, transport: Any, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once wrong: the wait between two attempts counted as the model's time
    monkeypatch.setattr("namel3ss_ollama.retrier.random.random", lambda: 1.0)
    ollama_server.reply(TEXT)
    retry = RetryPolicy(wait_initial=0.4, wait_max=0.4)
    async with OllamaProvider("llama3.2", ollama_server.url, transport=transport, retry=retry) as provider:
        await provider.list_models()  # opens a connection and does the imports
        ollama_server.fault("status", status=503, times=1)
        began = time.perf_counter()
        if streaming:
            stream = provider.stream_chat(ASK)
            async for _ in stream:
                pass
            response = stream.response
        else:
            response = await provider.achat(ASK)
        assert time.perf_counter() - began > 0.4
        assert response is not None
        stats = provider.stats()
        assert stats.retries == 1
        assert response.metadata["time_to_first_token"] < 0.3
        assert stats.first_token_seconds is not None
        assert stats.first_token_seconds < 0.3


async def test_time_to_first_token_excludes_the_queue(make: Make, ollama_server: OllamaServer) -> None:
    provider = make(max_concurrent=1)
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate, times=1)
    ollama_server.reply(TEXT)
    first = asyncio.create_task(provider.agenerate("x"))
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    second = asyncio.create_task(provider.achat(ASK))
    await asyncio.sleep(0.3)
    gate.open()
    await first
    assert (await second).metadata["time_to_first_token"] < 0.25
    assert provider.stats().queue_seconds > 0.29


async def test_a_time_to_first_token_is_never_negative(ollama_server: OllamaServer) -> None:
    # Once wrong: it was measured from the last attempt, which may not have had a token.
    ollama_server.fault("reset_mid_stream", at_token=1, times=1)
    ollama_server.fault("status", status=400)
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        with pytest.raises(BadRequestError):
            await provider.agenerate("Hi")
        assert len(ollama_server.requests) == 2
        assert provider.stats().first_token_seconds > 0
