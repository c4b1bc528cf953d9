"""How streams are stepped, left and closed: by loops and by `anext`, from other tasks and threads, by finalizers."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from namel3ss_ollama import OllamaProvider, sync
from namel3ss_ollama.stream import Stream
from namel3ss_ollama.testing import Gate, OllamaServer

ASK = [{"role": "user", "content": "count"}]
TEXT = "one two three four"
TOKENS = ["one", " two", " three", " four", ""]
LONG = 15

Make = Callable[..., OllamaProvider]


@pytest.fixture(params=["aiohttp", "httpx"])
def blocking(ollama_server: OllamaServer, request: pytest.FixtureRequest) -> Iterator[OllamaProvider]:
    with OllamaProvider("llama3.2", ollama_server.url, transport=request.param, max_concurrent=2) as provider:
        yield provider
        until(lambda: provider.stats().running == 0)  # dropped streams are closed soon afterwards
        assert (provider.stats().running, provider.stats().queued) == (0, 0)
    ollama_server.wait_for(lambda s: s.open_connections == 0)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that no event signals."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def hung_up(server: OllamaServer) -> bool:
    return server.requests[-1].outcome == "client_closed" and server.active_requests == 0


# Stepping


def test_a_synchronous_stream_is_an_iterator(blocking: OllamaProvider, ollama_server: OllamaServer) -> None:
    # Once wrong: "'SyncStream' object is not an iterator"
    ollama_server.reply(TEXT)
    stream = blocking.stream(ASK)
    assert next(stream).content == "one"
    assert [next(stream).content for _ in range(4)] == TOKENS[1:]
    assert next(stream, None) is None
    assert stream.end == "done"


def test_a_synchronous_stream_stepped_and_then_iterated(blocking: OllamaProvider, ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT)
    stream = blocking.stream(ASK)
    assert next(stream).content == "one"
    assert [chunk.content for chunk in stream] == TOKENS[1:]
    assert (stream.end, stream.text) == ("done", TEXT)
    assert list(stream) == []


async def test_a_stream_stepped_and_then_iterated(make: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT)
    stream = make().stream_chat(ASK)
    assert (await anext(stream)).content == "one"
    async for chunk in stream:
        assert chunk.content == " two"
        break
    assert (await anext(stream)).content == " three"  # leaving a loop does not close a stream that was stepped before
    assert [chunk.content async for chunk in stream] == TOKENS[3:]
    assert (stream.end, stream.text) == ("done", TEXT)


@pytest.mark.parametrize("leave", [True, False])
def test_a_second_loop_over_a_synchronous_stream_is_an_error(
    blocking: OllamaProvider, ollama_server: OllamaServer, leave: bool
) -> None:
    # Once wrong: it silently yielded nothing
    ollama_server.reply(TEXT)
    stream = blocking.stream(ASK)
    for _ in stream:
        if leave:
            break
    with pytest.raises(RuntimeError, match="iterated once"):
        for _ in stream:
            pass
    with pytest.raises(RuntimeError, match="iterated once"):
        next(stream)


async def test_a_second_loop_over_a_stream_is_an_error(make: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT)
    stream = make().stream_chat(ASK)
    async for _ in stream:
        break
    with pytest.raises(RuntimeError, match="iterated once"):
        async for _ in stream:
            pass
    await stream.aclose()


async def test_two_tasks_cannot_read_one_stream(make: Make, ollama_server: OllamaServer) -> None:
    gate = Gate()
    ollama_server.reply(TEXT, gates={1: gate})
    stream = make().stream_chat(ASK)
    assert (await anext(stream)).content == "one"
    first = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)  # now it waits
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    with pytest.raises(RuntimeError, match="another task is reading from this stream"):
        await anext(stream)
    gate.open()  # the first reader is unaffected
    assert (await first).content == " two"
    assert [chunk.content async for chunk in stream] == TOKENS[2:]
    assert stream.end == "done"


# Closing


@pytest.mark.parametrize("callers", [1, 3])
@pytest.mark.parametrize("reading", [True, False])
async def test_aclose_from_another_task_returns_when_closed(
    make: Make, ollama_server: OllamaServer, reading: bool, callers: int
) -> None:
    # Once wrong: it returned before the connection was closed: one request running, `end` not set
    provider = make(max_concurrent=1)
    gate = Gate()
    ollama_server.reply(TEXT, gates={1: gate})
    stream = provider.stream_chat(ASK)
    read: list[str] = []
    go_on = asyncio.Event()

    async def consume() -> None:
        async for chunk in stream:
            read.append(chunk.content)
            if not reading:
                await go_on.wait()

    consumer = asyncio.create_task(consume())
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    while not read:
        await asyncio.sleep(0)
    await asyncio.gather(*(stream.aclose() for _ in range(callers)))
    assert (stream.end, provider.stats().running) == ("cancelled", 0)
    await ollama_server.wait_for_async(hung_up, timeout=2)
    go_on.set()
    await consumer
    assert read == ["one"]
    await stream.aclose()  # a second call does nothing
    assert provider.stats().streams_cancelled == 1


async def test_a_cancelled_aclose_still_closes(make: Make, ollama_server: OllamaServer) -> None:
    provider = make(max_concurrent=1)
    ollama_server.reply(TEXT, times=1, gates={1: Gate()})
    stream = provider.stream_chat(ASK)
    await anext(stream)
    closing = asyncio.create_task(stream.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    await ollama_server.wait_for_async(hung_up)
    assert (await provider.achat(ASK)).finish_reason == "stop"


async def test_leaving_a_loop_closes_a_stream_still_in_use(make: Make, ollama_server: OllamaServer) -> None:
    provider = make(max_concurrent=1)
    ollama_server.reply(TEXT, times=1, gates={1: Gate()})
    stream = provider.stream_chat(ASK)
    async for _ in stream:
        break
    await ollama_server.wait_for_async(hung_up)
    assert (stream.end, stream.text) == ("cancelled", "one")
    assert (await provider.achat(ASK)).finish_reason == "stop"


def test_leaving_a_synchronous_loop_closes_a_stream_still_in_use(
    blocking: OllamaProvider, ollama_server: OllamaServer
) -> None:
    ollama_server.reply(TEXT, gates={1: Gate()})
    stream = blocking.stream(ASK)
    for _ in stream:
        break
    ollama_server.wait_for(hung_up)
    assert stream.text == "one"

    def use() -> None:
        for _ in streams[0]:
            1 / 0  # noqa: B018

    streams = [blocking.stream(ASK)]
    with pytest.raises(ZeroDivisionError):
        use()
    ollama_server.wait_for(lambda s: len(s.requests) == 2 and hung_up(s))


@pytest.mark.parametrize("in_a_cycle", [True, False])
async def test_dropping_a_stream_that_was_stepped_closes_it(
    make: Make, ollama_server: OllamaServer, in_a_cycle: bool
) -> None:
    provider = make(max_concurrent=1)
    ollama_server.reply(TEXT, times=1, gates={1: Gate()})
    stream = provider.stream_chat(ASK)
    await anext(stream)
    if in_a_cycle:
        stream.itself = stream  # type: ignore[attr-defined]
    del stream
    if in_a_cycle:
        gc.collect()
    await ollama_server.wait_for_async(hung_up)
    assert (await asyncio.wait_for(provider.achat(ASK), LONG)).finish_reason == "stop"
    assert provider.stats().streams_cancelled == 1


def test_dropping_a_synchronous_stream_that_was_stepped_closes_it(
    blocking: OllamaProvider, ollama_server: OllamaServer
) -> None:
    ollama_server.reply(TEXT, gates={1: Gate()})
    stream = blocking.stream(ASK)
    next(stream)
    del stream
    ollama_server.wait_for(hung_up)


# Finalization


def start_step(stream: Stream) -> Any:
    coroutine = stream.__anext__()
    coroutine.send(None)
    return coroutine


@pytest.mark.parametrize("where", ["queue", "answer", "body"])
async def test_closing_the_coroutine_of_a_step_leaks_nothing(
    make: Make, ollama_server: OllamaServer, where: str, transport: str
) -> None:
    """As async frameworks do with the coroutines that they drive, and the interpreter with those that it finalizes."""
    if transport == "httpx" and where != "queue":
        pytest.skip("anyio, beneath httpx, runs in tasks only")
    provider = make(max_concurrent=1)
    gate = Gate()
    ollama_server.reply(TEXT, times=1, gates={1 if where == "body" else 0: gate}, contains="held")
    ollama_server.reply(TEXT)
    await provider.achat(ASK)  # imports the modules and pools a connection
    stream = provider.stream_generate("held")
    slot = await provider._limiter.acquire() if where == "queue" else None
    if where == "body":
        await anext(stream)
    coroutine = start_step(stream)
    if where != "queue":
        await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    coroutine.close()
    if slot is not None:
        provider._limiter.release(slot)
    else:
        await ollama_server.wait_for_async(hung_up)
    assert (await asyncio.wait_for(provider.achat(ASK), LONG)).content == TEXT
    stats = provider.stats()
    assert (stats.generations_cancelled, stats.generations_succeeded, stats.generations_failed) == (1, 2, 0)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


# Interrupts


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs pthread_kill")
@pytest.mark.parametrize("by_hand", [True, False])
def test_ctrl_c_while_a_synchronous_stream_waits(
    blocking: OllamaProvider, ollama_server: OllamaServer, by_hand: bool
) -> None:
    gate = Gate()
    ollama_server.reply(TEXT, gates={1: gate}, times=1)
    ollama_server.reply(TEXT)
    stream = blocking.stream(ASK)
    main = threading.get_ident()

    def interrupt() -> None:
        until(lambda: stream.text == "one" and sys._current_frames()[main].f_code.co_name == "wait")
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        if by_hand:
            while True:
                next(stream)
        else:
            for _ in stream:
                pass
    thread.join()
    ollama_server.wait_for(lambda s: s.requests[0].outcome == "client_closed")
    assert blocking.chat(ASK).content == TEXT
    assert (stream.end, stream.text) == ("cancelled", "one")
    assert blocking.stats().streams_cancelled == 1


def waits_in_run(frame: FrameType | None) -> bool:
    """Whether a thread waits for the background loop (and not for a thread's start, say)."""
    if frame is None or frame.f_code.co_name != "wait":
        return False
    while frame is not None and frame.f_code is not sync.run.__code__:
        frame = frame.f_back
    return frame is not None


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs pthread_kill")
def test_ctrl_c_before_the_background_loop_starts_the_step(
    blocking: OllamaProvider, ollama_server: OllamaServer
) -> None:
    ollama_server.reply(TEXT, gates={1: Gate()}, times=1)
    ollama_server.reply(TEXT)
    stream = blocking.stream(ASK)
    assert next(stream).content == "one"
    held = threading.Event()
    sync._background.loop().call_soon_threadsafe(held.wait)
    main = threading.get_ident()

    def interrupt() -> None:
        until(lambda: waits_in_run(sys._current_frames()[main]))
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    finally:
        held.set()
    thread.join()
    ollama_server.wait_for(lambda s: s.requests[0].outcome == "client_closed")
    assert blocking.chat(ASK).content == TEXT
    assert (stream.end, stream.text) == ("cancelled", "one")
