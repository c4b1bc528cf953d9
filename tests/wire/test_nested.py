"""Slots: requests made while a stream is open, requests that wait for slots, and loops that end with slots held."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langchain_core.prompts import ChatPromptTemplate

from langchain_namel3ss_ollama import ChatOllama
from namel3ss_ollama import OllamaProvider, QueueFullError
from namel3ss_ollama.testing import Gate, OllamaServer, Reply

ASK = [{"role": "user", "content": "count"}]
TEXT = "one two three four"
SLOTS = 3
LONG = 15
"""Seconds after which a test counts as hung; it should take a tenth of a second."""

Make = Callable[..., OllamaProvider]
Nested = Callable[[OllamaProvider], Awaitable[Any]]


async def by_achat(provider: OllamaProvider) -> None:
    assert (await provider.achat(ASK)).content == TEXT


async def by_a_call_in_a_task(provider: OllamaProvider) -> None:
    await asyncio.create_task(by_achat(provider))


async def by_embed(provider: OllamaProvider) -> None:
    assert len((await provider.embed(["a"] * 5, model="all-minilm", batch_size=2)).embeddings) == 5


async def by_a_batch(provider: OllamaProvider) -> None:
    assert len(await provider.agenerate_batch(["a"] * 5)) == 5


async def by_another_stream(provider: OllamaProvider) -> None:
    assert "".join([chunk.content async for chunk in provider.stream_chat(ASK)]) == TEXT


async def by_a_stream_that_calls(provider: OllamaProvider) -> None:
    async for _ in provider.stream_chat(ASK):
        await by_achat(provider)


async def by_two_calls_at_once(provider: OllamaProvider) -> None:
    await asyncio.gather(by_achat(provider), by_achat(provider))


async def by_a_synchronous_call(provider: OllamaProvider) -> None:
    assert provider.chat(ASK).content == TEXT


async def by_a_synchronous_stream(provider: OllamaProvider) -> None:
    assert "".join(chunk.content for chunk in provider.stream(ASK)) == TEXT


async def by_a_call_in_another_thread(provider: OllamaProvider) -> None:
    await asyncio.to_thread(provider.chat, ASK)


NESTED = [
    by_achat,
    by_a_call_in_a_task,
    by_embed,
    by_a_batch,
    by_another_stream,
    by_a_stream_that_calls,
    by_two_calls_at_once,
    by_a_synchronous_call,
    by_a_synchronous_stream,
    by_a_call_in_another_thread,
]


@pytest.fixture
def answering(ollama_server: OllamaServer) -> OllamaServer:
    """Answers every request with `TEXT`."""
    ollama_server.reply(TEXT, path="/api/chat")
    ollama_server.reply(TEXT, path="/api/generate")
    return ollama_server


async def together(streams: AsyncIterator[Any], arrived: list[None], nested: Callable[[], Awaitable[Any]]) -> int:
    """Read a stream; after its first chunk wait until all streams have theirs, then make nested requests."""
    count = 0
    async for _ in streams:
        if not count:
            arrived.append(None)
            while len(arrived) < SLOTS:
                await asyncio.sleep(0)
        await nested()
        count += 1
    return count


@pytest.mark.parametrize("nested", NESTED)
async def test_streams_in_all_slots_may_make_nested_requests(
    make: Make, answering: OllamaServer, nested: Nested
) -> None:
    # Once wrong: no stream ended, since each waited for a slot that another one held
    provider = make(max_concurrent=SLOTS)
    arrived: list[None] = []
    streams = [together(provider.stream_chat(ASK), arrived, lambda: nested(provider)) for _ in range(SLOTS)]
    began = time.monotonic()
    counts = await asyncio.wait_for(asyncio.gather(*streams), LONG)
    assert all(count >= 4 for count in counts)
    assert time.monotonic() - began < LONG / 2


@pytest.mark.parametrize("by_hand", [True, False])
async def test_a_stream_that_is_stepped_allows_nested_requests(
    make: Make, answering: OllamaServer, by_hand: bool
) -> None:
    provider = make(max_concurrent=1)

    async def use() -> None:
        stream = provider.stream_chat(ASK)
        await anext(stream)
        await by_achat(provider)
        if by_hand:
            await anext(stream)
            await by_achat(provider)
            await stream.aclose()
        else:
            async for _ in stream:
                await by_achat(provider)

    await asyncio.wait_for(use(), LONG)


@pytest.mark.timeout(60)
def test_synchronous_calls_within_synchronous_streams(ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT)
    barrier = threading.Barrier(SLOTS)
    with OllamaProvider("llama3.2", ollama_server.url, max_concurrent=SLOTS) as provider:

        def use(number: int) -> int:
            count = 0
            for _ in provider.stream(ASK):
                if not count:
                    barrier.wait(LONG)
                count += 1
                if number % 2:
                    assert provider.chat(ASK).content == TEXT
                else:
                    assert "".join(chunk.content for chunk in provider.stream(ASK)) == TEXT
            return count

        with ThreadPoolExecutor(SLOTS) as pool:
            assert all(count >= 4 for count in pool.map(use, range(SLOTS), timeout=LONG))
        assert provider.stats().running == 0


# LangChain iterates its streams in its own way


@pytest.fixture(params=["aiohttp", "httpx"])
def chat(ollama_server: OllamaServer, request: pytest.FixtureRequest) -> Iterator[ChatOllama]:
    ollama_server.reply(TEXT)
    with OllamaProvider("llama3.2", ollama_server.url, max_concurrent=SLOTS, transport=request.param) as provider:
        yield ChatOllama(model="llama3.2", provider=provider)
        assert (provider.stats().running, provider.stats().queued) == (0, 0)


@pytest.mark.parametrize("chained", [False, True])
async def test_langchain_calls_within_streams(chat: ChatOllama, chained: bool) -> None:
    chain: Any = ChatPromptTemplate.from_messages([("user", "{question}")]) | chat if chained else chat
    question: Any = {"question": "count"} if chained else "count"
    arrived: list[None] = []

    async def nested() -> None:
        answer: BaseMessage = await chain.ainvoke(question)
        assert answer.content == TEXT

    began = time.monotonic()
    streams = [together(chain.astream(question), arrived, nested) for _ in range(SLOTS)]
    counts = await asyncio.wait_for(asyncio.gather(*streams), LONG)
    assert all(count >= 4 for count in counts)
    assert time.monotonic() - began < LONG / 2
    await chat.provider.aclose()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("chained", [False, True])
def test_langchain_synchronous_calls_within_synchronous_streams(chat: ChatOllama, chained: bool) -> None:
    chain: Any = ChatPromptTemplate.from_messages([("user", "{question}")]) | chat if chained else chat
    question: Any = {"question": "count"} if chained else "count"
    barrier = threading.Barrier(SLOTS)

    def use() -> int:
        count = 0
        for _ in chain.stream(question):
            if not count:
                barrier.wait(LONG)
            count += 1
            assert chain.invoke(question).content == TEXT
        return count

    with ThreadPoolExecutor(SLOTS) as pool:
        futures = [pool.submit(use) for _ in range(SLOTS)]
        assert all(future.result(LONG) >= 4 for future in futures)


# The limit applies to all other requests


async def test_requests_that_are_not_nested_keep_to_the_limit(make: Make, ollama_server: OllamaServer) -> None:
    provider = make(max_concurrent=2)
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate)
    tasks = [asyncio.create_task(by_achat(provider)) for _ in range(6)]
    tasks += [asyncio.create_task(by_another_stream(provider)) for _ in range(6)]
    for left in range(12, 0, -1):
        at_once = min(left, 2)
        await ollama_server.wait_for_async(lambda s, n=at_once: gate.waiting == s.active_requests == n)
        assert provider.stats().running <= 2
        gate.step()
        await ollama_server.wait_for_async(lambda s, n=13 - left: sum(r.ended is not None for r in s.requests) == n)
    await asyncio.gather(*tasks)


async def test_a_request_made_within_an_ended_stream_is_not_nested(make: Make, ollama_server: OllamaServer) -> None:
    provider = make(max_concurrent=1)
    gate = Gate()
    ollama_server.reply(TEXT, contains="count")
    ollama_server.reply(TEXT, contains="held", gate=gate)
    async for chunk in provider.stream_chat(ASK):
        if chunk.done:
            break
    other = asyncio.create_task(provider.agenerate("held"))
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    waiting = asyncio.create_task(by_achat(provider))
    while not provider.stats().queued:
        await asyncio.sleep(0)
    assert provider.stats().running == 1
    gate.open()
    await asyncio.gather(other, waiting)


async def test_an_idle_stream_lets_waiters_through_but_one_that_is_read_does_not(
    make: Make, ollama_server: OllamaServer
) -> None:
    provider = make(max_concurrent=1)
    gate = Gate()
    ollama_server.reply(TEXT, contains="held", gates={1: gate})
    ollama_server.reply(TEXT, contains="count")
    stream = provider.stream_generate("held")

    async def use() -> None:
        await anext(stream)
        reading = asyncio.create_task(anext(stream))
        await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
        await asyncio.sleep(0.5)  # twice the time after which the slot of an idle stream does not count
        assert len(ollama_server.requests) == 1
        gate.step()
        await reading

    # In a separate task, so that nothing here is nested in it
    using = asyncio.create_task(use())
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    waiting = asyncio.create_task(by_achat(provider))
    await using
    await asyncio.wait_for(waiting, LONG)
    await stream.aclose()


# Batches, and the queue's limits


async def test_embed_batches_wait_outside_the_queue_limits(make: Make, ollama_server: OllamaServer) -> None:
    # Once wrong: `embed` filled its own queue, and failed on an idle server
    provider = make(max_concurrent=2, max_queue=5, queue_timeout=0.1)
    most = 0

    def watch(_: Any) -> bool:
        nonlocal most
        most = max(most, ollama_server.active_requests)
        time.sleep(0.02)  # server time: sixteen requests, two at a time, exceed queue_timeout
        return True

    ollama_server.on(predicate=watch)
    response = await provider.embed(["text"] * 1000, model="all-minilm")
    assert len(response.embeddings) == 1000
    assert most <= 2
    assert provider.stats().embeddings_succeeded == len(ollama_server.requests) == 16


async def test_a_batch_waits_for_a_slot_outside_the_queue_limits(make: Make, ollama_server: OllamaServer) -> None:
    provider = make(max_concurrent=1, max_queue=0, queue_timeout=0.01)
    gate = Gate()
    ollama_server.reply(TEXT, contains="held", gate=gate)
    ollama_server.reply(TEXT)
    other = asyncio.create_task(provider.agenerate("held"))
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    batch = asyncio.create_task(provider.agenerate_batch(["a", ASK, "b"]))
    while not provider.stats().queued:
        await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await provider.achat(ASK)
    await asyncio.sleep(0.05)  # longer than queue_timeout
    assert not batch.done()
    gate.open()
    assert [answer.content for answer in await batch] == [TEXT] * 3
    await other


# Loops that end with slots held


def closed_loop(
    provider: OllamaProvider, use: Callable[[OllamaProvider], Awaitable[Any]], server: OllamaServer
) -> None:
    """Close an event loop while `use` is pending and its answer has started."""
    loop = asyncio.new_event_loop()
    before = len(server.requests)

    async def run() -> None:
        task = asyncio.ensure_future(use(provider))
        task._log_destroy_pending = False  # type: ignore[attr-defined] # it is left pending on purpose
        while len(server.requests) == before or not server.requests[-1].tokens_sent:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)  # the headers and the first token have been read

    loop.run_until_complete(run())
    loop.close()


open_streams: list[Any] = []


async def stepped_stream(provider: OllamaProvider) -> None:
    open_streams.append(provider.stream_generate("held after one"))
    await anext(open_streams[-1])


async def iterated_stream(provider: OllamaProvider) -> None:
    async for _ in provider.stream_generate("held after one"):
        pass


async def pending_call(provider: OllamaProvider) -> None:
    await provider.agenerate("held after one")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("use", [stepped_stream, iterated_stream, pending_call])
# The garbage collector warns of tasks pending on a closed loop, and of plain httpx's open sockets there.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loops_closed_by_the_program_release_their_slots(
    use: Nested, kept: bool, transport: Any, ollama_server: OllamaServer
) -> None:
    # Once wrong: as many closed loops as slots, and no call ever returned
    gate = Gate()
    ollama_server.reply(TEXT, contains="held after one", gates={1: gate})
    ollama_server.reply(TEXT)
    provider = OllamaProvider("llama3.2", ollama_server.url, max_concurrent=SLOTS, transport=transport)
    threads = [threading.Thread(target=closed_loop, args=(provider, use, ollama_server)) for _ in range(SLOTS)]
    for thread in threads:
        thread.start()
        thread.join(LONG)
        assert not thread.is_alive()
    if not kept:
        open_streams.clear()
        gc.collect()
    answers = ThreadPoolExecutor(2)
    try:
        assert answers.submit(provider.generate, "count").result(LONG).content == TEXT
        assert answers.submit(asyncio.run, provider.achat(ASK)).result(LONG).content == TEXT
        assert (provider.stats().running, provider.stats().queued) == (0, 0)
    finally:
        answers.shutdown(wait=False)
        open_streams.clear()
        provider.close()
        gate.open()
        gc.collect()
    stats = provider.stats()
    assert stats.generations_succeeded == 2
    assert stats.generations_failed == 0
    # anyio, beneath plain httpx, keeps a task pending on a closed loop alive; such a request never ends.
    assert stats.generations_cancelled == SLOTS or (transport == "httpx" and use is not stepped_stream)


@pytest.mark.timeout(60)
def test_a_stopped_loop_does_not_keep_others_waiting(ollama_server: OllamaServer) -> None:
    # Once wrong: a loop that was stopped, not closed, got the slot and starved the others
    gate = Gate()
    ollama_server.reply(Reply(TEXT, gate=gate), contains="held")
    ollama_server.reply(TEXT)
    provider = OllamaProvider("llama3.2", ollama_server.url, max_concurrent=1)
    stopped = asyncio.new_event_loop()
    with ThreadPoolExecutor(2) as pool:
        holder = pool.submit(provider.generate, "held")
        ollama_server.wait_for(lambda _: gate.waiting == 1)
        first = stopped.create_task(provider.achat(ASK))
        stopped.run_until_complete(asyncio.sleep(0.01))
        assert provider.stats().queued == 1
        second = pool.submit(provider.chat, ASK)
        while provider.stats().queued < 2:
            time.sleep(0.001)
        gate.open()
        assert holder.result(LONG).content == TEXT
        assert second.result(LONG).content == TEXT
    assert stopped.run_until_complete(first).content == TEXT
    stopped.run_until_complete(provider.aclose())
    stopped.close()
    assert (provider.stats().running, provider.stats().queued) == (0, 0)
