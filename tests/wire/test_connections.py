"""Connections are closed with their event loop, however it ends; closing a provider never hangs or logs."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from namel3ss_ollama import LLMConnectionError, OllamaProvider, connections
from namel3ss_ollama.testing import Gate, OllamaServer

TEXT = "one two three four five six"
ASK = [{"role": "user", "content": "count"}]
Coro = Coroutine[Any, Any, Any]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged; a test's garbage is collected within the test, so that a warning fails it."""
    caplog.set_level(logging.INFO)
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.records] == []


@pytest.fixture
def provider(ollama_server: OllamaServer, transport: str) -> Iterator[OllamaProvider]:
    ollama_server.reply(TEXT)
    provider = OllamaProvider("llama3.2", ollama_server.url, transport=transport, max_concurrent=2)
    yield provider
    provider.close()
    assert (provider.stats().running, provider.stats().queued) == (0, 0)
    assert len(provider._client.connections) == 0
    ollama_server.wait_for(lambda s: s.open_connections == 0)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def run_and_close(coroutine: Coro) -> Any:
    """As Celery, Flask, Streamlit and LlamaIndex do it: without `shutdown_asyncgens`."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


@contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


WAYS_TO_CLOSE: dict[str, Callable[[OllamaProvider], None]] = {
    "close": OllamaProvider.close,
    "aclose": lambda provider: asyncio.run(provider.aclose()),
}


@pytest.fixture(params=list(WAYS_TO_CLOSE))
def close(request: pytest.FixtureRequest) -> Callable[[OllamaProvider], None]:
    return WAYS_TO_CLOSE[request.param]


# Loops of other threads


@pytest.mark.parametrize("run", [asyncio.run, run_and_close])
def test_closing_while_a_loop_of_another_thread_ends(
    provider: OllamaProvider, run: Callable[[Coro], None], close: Callable[[OllamaProvider], None]
) -> None:
    # Once wrong: CancelledError, "asynchronous generator is already running", a hang, unclosed sessions.
    begin, answered, ended = (threading.Semaphore(0) for _ in range(3))
    failures: list[BaseException] = []

    async def use() -> None:
        await provider.version()
        answered.release()

    def work() -> None:
        while begin.acquire() and not stop:
            try:
                run(use())
            except BaseException as error:  # reported by the test's own thread
                failures.append(error)
                answered.release()
            ended.release()

    stop = False
    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 1.5
    try:
        for number in range(150):
            begin.release()
            assert answered.acquire(timeout=10)
            for _ in range(number * 37 % 400):
                pass  # meanwhile the loop shuts down
            with within(3):
                close(provider)
            assert ended.acquire(timeout=10)
            if time.monotonic() > deadline:
                break
    finally:
        stop = True
        begin.release()
        thread.join()
    assert failures == []
    assert number >= 20


def test_closing_with_a_stopped_loop(provider: OllamaProvider, close: Callable[[OllamaProvider], None]) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(provider.version())
    with within(2):
        close(provider)
    assert loop.run_until_complete(provider.version())  # with a new client
    loop.run_until_complete(provider.aclose())
    loop.close()


def test_closing_with_a_loop_closed_later(
    provider: OllamaProvider, ollama_server: OllamaServer, close: Callable[[OllamaProvider], None]
) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(provider.version())
    close(provider)
    loop.close()


def test_closing_with_a_closed_loop(
    provider: OllamaProvider, ollama_server: OllamaServer, close: Callable[[OllamaProvider], None]
) -> None:
    run_and_close(provider.version())
    with within(2):
        close(provider)
    ollama_server.wait_for(lambda s: s.open_connections == 0)


def test_closing_with_a_blocked_loop(
    provider: OllamaProvider,
    ollama_server: OllamaServer,
    close: Callable[[OllamaProvider], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closing waits for the loop up to a limit; the loop closes its connections when it resumes."""
    monkeypatch.setattr(connections, "_LONGEST_CLOSE", 0.2)
    blocked, free = threading.Event(), threading.Event()
    with loop_in_thread() as loop:
        asyncio.run_coroutine_threadsafe(provider.version(), loop).result(10)

        def block() -> None:
            blocked.set()
            free.wait(10)

        loop.call_soon_threadsafe(block)
        assert blocked.wait(10)
        with within(2):
            close(provider)
        assert ollama_server.open_connections == 1
        free.set()
        ollama_server.wait_for(lambda s: s.open_connections == 0)


def test_close_returns_after_a_running_loop_closed_its_connections(
    provider: OllamaProvider, ollama_server: OllamaServer, close: Callable[[OllamaProvider], None]
) -> None:
    with loop_in_thread() as loop:
        asyncio.run_coroutine_threadsafe(provider.version(), loop).result(10)
        close(provider)
        ollama_server.wait_for(lambda s: s.open_connections == 0)
        assert asyncio.run_coroutine_threadsafe(provider.version(), loop).result(10)
        close(provider)


async def test_closing_ends_a_request_in_flight(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    # Once wrong: "did the server restart, or run out of memory?"
    gate = Gate()
    ollama_server.fault("stall_before_headers", gate=gate)
    task = asyncio.create_task(provider.achat(ASK))
    await ollama_server.wait_for_async(lambda s: s.active_requests == 1)
    await provider.aclose()
    with pytest.raises(LLMConnectionError, match="the provider or its http_client was closed") as caught:
        await task
    assert not caught.value.temporary
    assert len(ollama_server.requests) == 1


def test_closing_from_another_thread_ends_a_request_in_flight(
    provider: OllamaProvider, ollama_server: OllamaServer, close: Callable[[OllamaProvider], None]
) -> None:
    ollama_server.fault("stall_before_headers")
    with loop_in_thread() as loop:
        future = asyncio.run_coroutine_threadsafe(provider.achat(ASK), loop)
        ollama_server.wait_for(lambda s: s.active_requests == 1)
        close(provider)
        with pytest.raises(LLMConnectionError, match="the provider or its http_client was closed"):
            future.result(10)
    assert len(ollama_server.requests) == 1


# Loops closed without `asyncio.run`


async def step(provider: OllamaProvider, kept: list[Any]) -> None:
    stream = provider.stream_chat(ASK)
    kept.append(stream)
    assert (await stream.__anext__()).content == "one"


async def loop_over(provider: OllamaProvider, kept: list[Any]) -> None:
    async for _ in provider.stream_chat(ASK):
        return


async def pending(provider: OllamaProvider, kept: list[Any]) -> None:
    kept.append(asyncio.create_task(provider.achat(ASK)))
    while provider.stats().running == 0:
        await asyncio.sleep(0)
    await provider.version()


async def waiting(provider: OllamaProvider, kept: list[Any]) -> None:
    await step(provider, kept)
    await step(provider, kept)
    # In another context, since a request that is nested in a stream does not wait.
    kept.append(contextvars.Context().run(asyncio.ensure_future, provider.achat(ASK)))
    while provider.stats().queued == 0:
        await asyncio.sleep(0)


async def completed(provider: OllamaProvider, kept: list[Any]) -> None:
    await provider.version()


LEFT_OPEN = [step, loop_over, pending, waiting, completed]


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "dropped"])
@pytest.mark.parametrize("leave", LEFT_OPEN)
def test_a_loop_closed_by_the_program_leaks_nothing(
    provider: OllamaProvider, ollama_server: OllamaServer, leave: Callable[..., Coro], keep: bool
) -> None:
    # Once wrong: "Unclosed client session", and a slot that was never released; with max_concurrent=2 the third hung.
    gate = Gate()
    ollama_server.reset()
    ollama_server.reply(TEXT, gates={1: gate})
    kept: list[Any] = []
    for _ in range(3):
        run_and_close(leave(provider, kept))
        for task in kept:
            if isinstance(task, asyncio.Task):
                task._log_destroy_pending = False  # asyncio would report the program's mistake
        if not keep:
            kept.clear()
            gc.collect()
    assert (provider.stats().running, provider.stats().queued) == (0, 0)
    gate.open()
    assert asyncio.run(provider.achat(ASK)).content == TEXT
    assert provider.chat(ASK).content == TEXT
    assert len(provider._client.connections) == 1  # the background loop's
    provider.close()
    ollama_server.wait_for(lambda s: s.open_connections == 0)


# Providers that are dropped


@pytest.mark.parametrize("streaming", [False, True], ids=["idle", "streaming"])
@pytest.mark.parametrize("state", ["running", "stopped", "closed"])
def test_a_dropped_provider_closes_its_connections(
    ollama_server: OllamaServer, transport: str, state: str, streaming: bool
) -> None:
    ollama_server.reply(TEXT, gates={1: Gate()})

    async def use() -> None:
        provider = OllamaProvider("llama3.2", ollama_server.url, transport=transport)
        await (step(provider, []) if streaming else provider.version())

    async def last_steps() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    if state == "running":
        with loop_in_thread() as loop:
            asyncio.run_coroutine_threadsafe(use(), loop).result(10)
            gc.collect()
            ollama_server.wait_for(lambda s: s.open_connections == 0)
        return
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    if state == "closed":
        loop.close()
    gc.collect()
    if state == "stopped":
        for _ in range(3):  # what one round finalizes may have kept a generator of the next alive
            loop.run_until_complete(last_steps())
            gc.collect()
        loop.close()
    ollama_server.wait_for(lambda s: s.open_connections == 0)
