"""Streams: how they end, their clean-up and their deadlines. Gates hold the server's answers, so nothing sleeps."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from namel3ss_ollama import (
    LLMError,
    LLMTimeoutError,
    Message,
    OutputValidationError,
    RetryPolicy,
    StreamConfig,
    StreamInterruptedError,
)
from namel3ss_ollama.testing import Gate, OllamaServer, Reply, ToolCall

ASK = [{"role": "user", "content": "count"}]
TEXT = "one two three four five six"
SHORT = 0.05


async def gone(server: OllamaServer, outcome: str = "client_closed") -> None:
    """Wait until the last request ended so, and its connection is closed."""
    await server.wait_for_async(lambda s: s.requests[-1].outcome == outcome and s.open_connections == 0)


async def test_chunks_arrive_one_by_one_and_the_last_has_the_usage(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT)
    stream = provider.stream_chat(ASK)
    assert stream.end is None
    assert stream.response is None
    seen = []
    async for chunk in stream:
        seen.append(chunk.content)
        assert stream.text == "".join(seen)
        if not chunk.done:
            assert (chunk.usage, chunk.finish_reason) == (None, None)
    assert len(seen) > 5
    assert chunk.done
    assert chunk.finish_reason == "stop"
    assert chunk.model == "llama3.2"
    assert stream.end == "done"
    assert stream.usage == chunk.usage == stream.response.usage
    assert stream.partial is stream.response
    assert stream.response.metadata["time_to_first_token"] >= 0
    assert stream.response.metadata["tokens_per_second"] > 0


async def test_generate_streams_too(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT, thinking="hm well")
    stream = provider.stream_generate("count", think=True, model="qwen3")
    chunks = [chunk async for chunk in stream]
    assert "".join(c.thinking for c in chunks) == stream.response.thinking == "hm well"
    assert stream.response.content == TEXT


async def test_connection_is_reused_after_the_last_chunk(provider: Any, ollama_server: OllamaServer) -> None:
    for _ in range(3):
        async for chunk in provider.stream_chat(ASK):
            if chunk.done:
                break
    await provider.achat(ASK)
    assert ollama_server.connections == 1


async def test_the_slot_is_released_with_the_last_chunk(make: Any) -> None:
    provider = make(max_concurrent=1)
    async for chunk in provider.stream_chat(ASK):
        if chunk.done:
            assert (await provider.achat(ASK)).finish_reason == "stop"


async def test_max_chunks_ends_without_an_error(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT, gates={4: Gate()})  # the rest never arrives
    stream = provider.stream_chat(ASK, stream_config=StreamConfig(max_chunks=3))
    chunks = [chunk.content async for chunk in stream]
    assert len(chunks) == 3
    assert stream.text == "".join(chunks)
    assert stream.end == "max_chunks"
    assert stream.response is None
    assert stream.partial.finish_reason is None
    assert provider.stats().streams_succeeded == 1
    await gone(ollama_server)


async def test_max_chunks_that_the_answer_does_not_reach(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply(["one", " two"])
    stream = provider.stream_chat(ASK, stream_config=StreamConfig(max_chunks=3))
    assert [c.content async for c in stream] == ["one", " two", ""]
    assert stream.end == "done"


@pytest.mark.parametrize("how", ["break", "aclose", "context", "raise"])
async def test_leaving_closes_the_connection(provider: Any, ollama_server: OllamaServer, how: str) -> None:
    ollama_server.reply(TEXT, gates={3: Gate()})
    stream = provider.stream_chat(ASK)
    if how == "break":
        async for _ in stream:
            break
    elif how == "aclose":
        await anext(stream)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    elif how == "context":
        async with stream:
            await anext(stream)
    else:
        with pytest.raises(ZeroDivisionError):
            async for _ in stream:
                1 / 0  # noqa: B018
    await gone(ollama_server)
    assert stream.end == "cancelled"
    assert stream.text == "one"
    await stream.aclose()  # waits until the stream is closed
    assert provider.stats().streams_cancelled == 1


async def test_cancel_from_another_task_while_waiting(provider: Any, ollama_server: OllamaServer) -> None:
    gate = Gate()
    ollama_server.reply(TEXT, gates={2: gate})
    stream = provider.stream_chat(ASK)

    async def consume() -> list[str]:
        return [chunk.content async for chunk in stream]

    task = asyncio.create_task(consume())
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    while stream.text != "one two":
        await asyncio.sleep(0)
    stream.cancel()
    assert await task == ["one", " two"]
    assert stream.end == "cancelled"
    assert not task.cancelled()
    await gone(ollama_server)


async def test_cancel_while_the_caller_works_on_a_chunk(make: Any, ollama_server: OllamaServer) -> None:
    """The connection is closed and the slot released at once, without another step of the caller."""
    provider = make(max_concurrent=1)
    ollama_server.reply(TEXT, times=1, gates={3: Gate()})
    stream = provider.stream_chat(ASK)
    await anext(stream)
    stream.cancel()
    await gone(ollama_server)
    assert (await provider.achat(ASK)).finish_reason == "stop"
    assert [c async for c in stream] == []
    assert stream.end == "cancelled"


async def test_cancel_before_the_first_step(provider: Any, ollama_server: OllamaServer) -> None:
    stream = provider.stream_chat(ASK)
    stream.cancel()
    assert [c async for c in stream] == []
    assert stream.end == "cancelled"
    assert ollama_server.requests == []


async def test_cancel_while_queued(make: Any, ollama_server: OllamaServer) -> None:
    provider = make(max_concurrent=1)
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate, times=1)
    first = asyncio.create_task(provider.achat(ASK))
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    stream = provider.stream_chat(ASK)
    waiting = asyncio.create_task(anext(stream, None))
    while provider.stats().queued == 0:
        await asyncio.sleep(0)
    stream.cancel()
    assert await waiting is None
    gate.open()
    assert (await first).content == TEXT


async def test_a_stream_is_iterated_once(provider: Any) -> None:
    stream = provider.stream_chat(ASK)
    assert [c async for c in stream]
    with pytest.raises(RuntimeError, match="iterated once"):
        await anext(stream)


async def test_a_dropped_stream_cleans_up(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT, gates={3: Gate()})
    stream = provider.stream_chat(ASK)
    await anext(stream)
    del stream
    gc.collect()
    await gone(ollama_server)


async def test_timeout_of_the_task_leaks_nothing(provider: Any, ollama_server: OllamaServer) -> None:
    gate = Gate()
    ollama_server.reply(TEXT, gates={2: gate})
    stream = provider.stream_chat(ASK)

    async def consume() -> None:
        async for _ in stream:
            pass

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(consume(), 10 * SHORT)
    assert stream.end == "cancelled"
    await gone(ollama_server)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("deadline", "config", "fault"),
    [
        ("first_chunk_timeout", {"first_chunk_timeout": SHORT}, "stall_before_headers"),
        ("chunk_timeout", {"chunk_timeout": SHORT}, "stall_mid_stream"),
        ("stream_timeout", {"stream_timeout": SHORT}, "stall_mid_stream"),
        ("stream_timeout", {"stream_timeout": SHORT}, "stall_before_headers"),
    ],
)
async def test_deadlines(
    make: Any, ollama_server: OllamaServer, deadline: str, config: dict[str, float], fault: str, streaming: bool
) -> None:
    ollama_server.fault(fault)
    provider = make(stream_config=StreamConfig(**config))
    with pytest.raises(LLMTimeoutError, match=deadline) as caught:
        if streaming:
            async for _ in provider.stream_chat(ASK):
                pass
        else:
            await provider.achat(ASK)
    assert caught.value.deadline == deadline
    assert caught.value.seconds == SHORT
    assert len(ollama_server.requests) == 1  # a stall is not retried
    assert (caught.value.partial is not None) == (fault == "stall_mid_stream")
    await gone(ollama_server)


async def test_timeout_covers_the_call_and_its_queue_time(make: Any, ollama_server: OllamaServer) -> None:
    provider = make(max_concurrent=1, timeout=60.0)
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate, times=1)
    first = asyncio.create_task(provider.achat(ASK))
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    with pytest.raises(LLMTimeoutError) as caught:
        await provider.achat(ASK, timeout=SHORT)
    assert caught.value.deadline == "timeout"
    gate.open()
    assert (await first).content == TEXT


async def test_bytes_without_a_line_do_not_extend_the_deadline(make: Any, ollama_server: OllamaServer) -> None:
    """A line that drips in byte by byte is no chunk until it is complete."""
    ollama_server.reply(TEXT)
    ollama_server.fault("slow_drip", seconds=SHORT / 5)
    provider = make(stream_config=StreamConfig(first_chunk_timeout=SHORT * 4))
    with pytest.raises(LLMTimeoutError, match="first_chunk_timeout"):
        await provider.achat(ASK)


async def test_the_callers_time_counts_for_stream_timeout_only(make: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT)
    config = StreamConfig(chunk_timeout=SHORT, first_chunk_timeout=SHORT * 20)
    async for _ in make().stream_chat(ASK, stream_config=config):
        await asyncio.sleep(SHORT * 1.5)  # longer than chunk_timeout, and no error
    slow = make().stream_chat(ASK, stream_config=StreamConfig(stream_timeout=SHORT))
    ollama_server.reset()
    gate = Gate()
    ollama_server.reply(TEXT, gates={1: gate})
    with pytest.raises(LLMTimeoutError, match="stream_timeout"):
        async for _ in slow:
            await asyncio.sleep(SHORT * 1.5)


async def test_a_failure_carries_the_partial_response(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT, thinking="so")
    ollama_server.fault("cut", at_token=4)
    stream = provider.stream_chat(ASK, think=True, model="qwen3")
    with pytest.raises(StreamInterruptedError) as caught:
        async for _ in stream:
            pass
    assert caught.value.partial is not None
    assert caught.value.partial.content == stream.text
    assert caught.value.partial.thinking == "so"
    assert caught.value.partial.finish_reason is None


async def test_unstreamed_answers(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT)
    for settings in ({"stream_internally": False}, {"stream": False}):
        response = await provider.achat(ASK, **settings)
        assert response.content == TEXT
        assert ollama_server.requests[-1].payload["stream"] is False
    for settings in ({"stream_internally": True}, {"stream": True}, {}):
        await provider.agenerate("count", **settings)
        assert "stream" not in ollama_server.requests[-1].payload
    with pytest.raises(TypeError, match="stream and stream_internally are the same argument"):
        await provider.achat(ASK, stream=True, stream_internally=True)


async def test_none_as_timeout_is_no_limit(make: Any, ollama_server: OllamaServer) -> None:
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate)
    task = asyncio.create_task(make(timeout=SHORT, retry=RetryPolicy.off()).achat(ASK, timeout=None))
    await asyncio.sleep(4 * SHORT)
    gate.open()
    assert (await task).content == TEXT


async def test_retry_stops_at_its_policy(make: Any, ollama_server: OllamaServer) -> None:
    ollama_server.fault("status", status=503)
    with pytest.raises(Exception, match="503"):
        await make(retry=RetryPolicy(attempts=5)).achat(ASK)
    assert len(ollama_server.requests) == 5
    ollama_server.reset()
    ollama_server.fault("status", status=503)
    with pytest.raises(Exception, match="503"):
        await make(retry=RetryPolicy.off()).achat(ASK)
    assert len(ollama_server.requests) == 1


async def test_a_dead_server_is_not_hammered(make: Any, ollama_server: OllamaServer) -> None:
    """The budget: reserve first, then a fifth of the requests."""
    ollama_server.fault("status", status=503)
    provider = make(retry=RetryPolicy(budget=0.2, budget_reserve=4))
    for _ in range(50):
        with pytest.raises(Exception, match="503"):
            await provider.achat(ASK)
    assert 50 + 4 <= len(ollama_server.requests) <= 50 + 4 + 10


async def test_truncated_prompt(provider: Any, ollama_server: OllamaServer, caplog: Any) -> None:
    ollama_server.reply(Reply("ok", counters={"prompt_eval_count": 256}))
    response = await provider.achat(ASK, num_ctx=256)
    assert response.truncated_prompt
    assert "the prompt was cut to the context window" in caplog.text
    assert "a window of 256" in caplog.text
    assert not (await provider.achat(ASK, num_ctx=512)).truncated_prompt
    with pytest.raises(Exception, match="context window") as caught:
        await provider.achat(ASK, num_ctx=256, on_truncation="error")
    assert caught.value.partial.content == "ok"
    chats = [record for record in ollama_server.requests if record.path == "/api/chat"]  # besides a version request
    assert chats[-1].payload["truncate"] is False
    assert not (await provider.achat(ASK, num_ctx=256, on_truncation="ignore")).truncated_prompt


async def test_the_window_is_looked_up_if_it_is_not_set(make: Any, ollama_server: OllamaServer) -> None:
    """A long prompt makes the guard look it up once; every server is limited to the trained length."""
    provider = make()
    ollama_server.reply(Reply("ok", counters={"prompt_eval_count": 8192}), path="/api/chat")
    stream = provider.stream_chat(ASK)
    assert [c.done async for c in stream][-1]
    window = int(ollama_server.models.get("llama3.2").context_length)
    assert stream.response.truncated_prompt == (window <= 8192)


async def test_a_reply_that_does_not_validate(provider: Any, ollama_server: OllamaServer) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str

    ollama_server.reply('{"name": "Rome"}', times=1)
    assert (await provider.achat(ASK, format=City)).parsed == City(name="Rome")
    ollama_server.reply('{"title": "Rome"}')
    with pytest.raises(OutputValidationError) as caught:
        await provider.achat(ASK, format=City)
    assert caught.value.text == '{"title": "Rome"}'
    assert caught.value.response is not None
    assert "Rome" not in str(caught.value)
    stream = provider.stream_chat(ASK, format=City)
    with pytest.raises(OutputValidationError):
        async for _ in stream:
            pass
    assert stream.text == '{"title": "Rome"}'


async def test_an_answer_that_asks_for_tools_is_not_validated(provider: Any, ollama_server: OllamaServer) -> None:
    # Once wrong: a model with tools and a `format` could not call a tool, since a call has no text that validates.
    from pydantic import BaseModel

    class City(BaseModel):
        name: str

    tool = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    ollama_server.reply(tool_calls=[ToolCall("weather", {"city": "Rome"})], times=2)
    ollama_server.reply('{"name": "Rome"}')
    answer = await provider.achat(ASK, format=City, tools=[tool])
    assert (answer.finish_reason, answer.parsed, answer.tool_calls[0].name) == ("tool_calls", None, "weather")
    stream = provider.stream_chat(ASK, format=City, tools=[tool])
    assert [chunk.tool_calls[0].name async for chunk in stream if chunk.tool_calls] == ["weather"]
    assert stream.end == "done"
    assert (await provider.achat(ASK, format=City, tools=[tool])).parsed == City(name="Rome")


@pytest.mark.parametrize("in_one_read", [True, False])
async def test_a_cut_forced_call_is_an_error_however_it_arrives(
    provider: Any, ollama_server: OllamaServer, in_one_read: bool
) -> None:
    ollama_server.reply('{"name": "weather", "arguments": {"ci', done_reason="length", path="/api/chat")
    if in_one_read:
        ollama_server.fault("lines_in_one_chunk", path="/api/chat")
    tool = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    stream = provider.stream_chat(ASK, tools=[tool], tool_choice="required")
    with pytest.raises(OutputValidationError, match="max_tokens") as caught:
        async for _ in stream:
            pass
    assert stream.end == "error"
    assert caught.value.text == '{"name": "weather", "arguments": {"ci'


async def test_max_chunks_does_not_report_an_unread_last_line(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply(["one", " two"])
    ollama_server.fault("lines_in_one_chunk", path="/api/chat")
    stream = provider.stream_chat(ASK, stream_config=StreamConfig(max_chunks=2))
    assert [c.content async for c in stream] == ["one", " two"]
    assert (stream.partial.finish_reason, stream.partial.usage["total_tokens"]) == (None, 0)


@pytest.mark.parametrize("prompts", ["text", b"text", {"role": "user", "content": "x"}, Message("user", "x")])
async def test_one_prompt_is_not_a_batch(prompts: Any, provider: Any, ollama_server: OllamaServer) -> None:
    with pytest.raises(TypeError, match=r"^prompts: expected several prompts"):
        await provider.agenerate_batch(prompts)
    assert ollama_server.requests == []


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_failure_of_a_batch_has_its_prompt_index(
    asynchronous: bool, provider: Any, ollama_server: OllamaServer
) -> None:
    async def prompts() -> AsyncIterator[str]:
        for prompt in ("a", "b", "bad", "c"):
            yield prompt

    ollama_server.fault("status", status=400, contains="bad")
    given = prompts() if asynchronous else ["a", "b", "bad", "c"]
    results = await provider.agenerate_batch(given, return_exceptions=True)
    assert [isinstance(result, LLMError) and result.prompt_index for result in results] == [False, False, 2, False]
    with pytest.raises(LLMError) as caught:
        await provider.agenerate_batch(["a", "bad"])
    assert caught.value.prompt_index == 1
    with pytest.raises(LLMError) as caught:
        await provider.agenerate("bad")
    assert caught.value.prompt_index is None


@pytest.mark.parametrize("how", ["chat", "generate", "stream_chat", "stream_generate"])
async def test_image_files_are_read_outside_the_event_loop(
    provider: Any, ollama_server: OllamaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    image = tmp_path / "dot.png"
    image.write_bytes(b"\x89PNG")
    threads: list[int] = []
    read = Path.read_bytes

    def recorded(path: Path) -> bytes:
        if path == image:
            threads.append(threading.get_ident())
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", recorded)
    ask = [{"role": "user", "content": "What is this?", "images": [image]}]
    if how == "chat":
        await provider.achat(ask, model="llava")
    elif how == "generate":
        await provider.agenerate("What is this?", images=[image], model="llava")
    elif how == "stream_chat":
        assert [chunk async for chunk in provider.stream_chat(ask, model="llava")]
    else:
        assert [chunk async for chunk in provider.stream_generate("What?", images=[image], model="llava")]
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()
    image.unlink()
    stream = provider.stream_chat(ask)
    with pytest.raises(ValueError, match="cannot read"):
        await anext(stream)
    assert stream.end == "error"
    assert len(ollama_server.requests) == 1
