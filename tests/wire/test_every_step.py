"""Each kind of use, cancelled after every turn of the event loop that it takes: some 2,500 cancellations.

A turn is one iteration of the event loop, so every await between the first and the last is reached, and also the
moment between a result and the task's wake-up. A task that is cancelled twice gets the second one in its clean-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from turns import TurnLoop, run_by_turns

from namel3ss_ollama import OllamaProvider, RetryPolicy, StreamConfig, instant_retries
from namel3ss_ollama.stream import Stream
from namel3ss_ollama.testing import Gate, OllamaServer

TEXT = "one two three four"
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
MOST_TURNS = 300
"""More turns than any use takes; the test fails if a use takes more, since not all of its steps were reached."""
UNDISTURBED = 4
"""So many consecutive rounds must end before their cancellation; a single one may just have been quick."""
FEWEST_CANCELLATIONS = 20
"""Of each use: those with a pooled connection over aiohttp take the fewest turns."""

Use = Callable[[OllamaProvider, str], Awaitable[Any]]


def ask(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


async def achat(provider: OllamaProvider, prompt: str) -> None:
    assert (await provider.achat(ask(prompt))).content == TEXT


async def agenerate_at_once(provider: OllamaProvider, prompt: str) -> None:
    assert (await provider.agenerate(prompt, stream=False)).content == TEXT


async def embed_in_several_requests(provider: OllamaProvider, prompt: str) -> None:
    assert len((await provider.embed([prompt] * 5, model="all-minilm", batch_size=2)).embeddings) == 5


async def stream_by_a_loop(provider: OllamaProvider, prompt: str) -> None:
    async for _ in follow(provider.stream_chat(ask(prompt))):
        await asyncio.sleep(0)


async def stream_by_hand(provider: OllamaProvider, prompt: str) -> None:
    stream = follow(provider.stream_chat(ask(prompt)))
    try:
        await anext(stream)
        await anext(stream)
    finally:
        await stream.aclose()


async def stream_read_by_read(provider: OllamaProvider, prompt: str) -> None:
    # Each token is sent once the previous one was yielded, so that each takes a separate read.
    # Once wrong: cancelled again a turn later, plain httpx left the connection open, and the server went on
    async for _ in follow(provider.stream_chat(ask(f"{prompt} [held]"))):
        gates[-1].step()


async def stream_in_a_block(provider: OllamaProvider, prompt: str) -> None:
    async with follow(provider.stream_generate(prompt)) as stream:
        async for _ in stream:
            pass


async def stream_with_max_chunks(provider: OllamaProvider, prompt: str) -> None:
    # Once wrong: cancelled while it closed at that limit, it was "cancelled", but counted as a success
    stream = follow(provider.stream_chat(ask(prompt), stream_config=StreamConfig(max_chunks=2)))
    assert len([chunk async for chunk in stream]) == 2


async def queued_stream(provider: OllamaProvider, prompt: str) -> None:
    # All slots are taken, and are released some turns later.
    slots = [await provider._limiter.acquire() for _ in range(2)]
    loop = asyncio.get_running_loop()

    def release(turns: int) -> None:
        if turns:
            loop.call_soon(release, turns - 1)
        else:
            for slot in slots:
                provider._limiter.release(slot)

    release(4)
    await stream_by_a_loop(provider, prompt)


async def queued_call(provider: OllamaProvider, prompt: str) -> None:
    await asyncio.gather(*(achat(provider, prompt) for _ in range(4)))


async def retried_call(provider: OllamaProvider, prompt: str) -> None:
    assert (await provider.achat(ask(f"{prompt} [busy]"))).content == TEXT


async def retried_stream(provider: OllamaProvider, prompt: str) -> None:
    async for _ in follow(provider.stream_chat(ask(f"{prompt} [busy]"))):
        pass


async def structured_output(provider: OllamaProvider, prompt: str) -> None:
    assert '"name"' in (await provider.agenerate(f"{prompt} [json]", format=SCHEMA)).content


async def achat_on_a_new_connection(provider: OllamaProvider, prompt: str) -> None:
    await provider.aclose()
    await achat(provider, prompt)


async def close_the_provider(provider: OllamaProvider, prompt: str) -> None:
    # Once wrong: a provider that was cancelled while it closed several connections left some open (plain httpx)
    await asyncio.gather(*(achat(provider, prompt) for _ in range(2)))
    await provider.aclose()


streams: list[Stream] = []
gates: list[Gate] = []


def follow(stream: Stream) -> Stream:
    streams.append(stream)
    return stream


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as server, instant_retries():
        yield server


def cancelled_once(loop: TurnLoop, task: asyncio.Task[Any], turns: int, met: list[bool]) -> None:
    loop.after(turns, lambda: met.append(task.cancel()))


def cancelled_twice(loop: TurnLoop, task: asyncio.Task[Any], turns: int, met: list[bool]) -> None:
    loop.after(turns, lambda: met.extend([task.cancel(), task.cancel()]))


def cancelled_again(loop: TurnLoop, task: asyncio.Task[Any], turns: int, met: list[bool], later: int = 2) -> None:
    loop.after(turns, lambda: met.append(task.cancel()))
    loop.after(turns + later, lambda: met.append(task.cancel()))


def cancelled_soon_again(loop: TurnLoop, task: asyncio.Task[Any], turns: int, met: list[bool]) -> None:
    cancelled_again(loop, task, turns, met, 1)


def cancelled_late_again(loop: TurnLoop, task: asyncio.Task[Any], turns: int, met: list[bool]) -> None:
    cancelled_again(loop, task, turns, met, 4)


WAYS = (cancelled_once, cancelled_twice, cancelled_soon_again, cancelled_again, cancelled_late_again)


class Rounds:
    """One use, cancelled after each of its turns, with checks after each round."""

    def __init__(self, server: OllamaServer, transport: Any, use: Use) -> None:
        self.server = server
        self.use = use
        self.provider = OllamaProvider(
            "llama3.2",
            server.url,
            transport=transport,
            max_concurrent=2,
            stream_config=StreamConfig(chunk_timeout=30),
            retry=RetryPolicy(budget=None),
        )
        self.begun = 0
        self.cancellations = 0
        telemetry = self.provider._telemetry
        begin = telemetry.begin

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.begun += 1
            return begin(*args, **kwargs)

        telemetry.begin = counted  # type: ignore[method-assign]

    async def round(self, loop: TurnLoop, cancel: Callable[..., None], turns: int) -> bool:
        """Cancel after so many turns; returns whether the task was still running."""
        prompt = f"<{cancel.__name__} {turns}>"
        self.server.fault("status", status=503, contains=f"{prompt} [busy]", times=1)
        gates.append(Gate())
        self.server.reply(TEXT, contains=f"{prompt} [held]", gates=dict.fromkeys(range(1, 5), gates[-1]))
        before, count, begun = asyncio.all_tasks(), self.outcomes(), self.begun
        streams.clear()
        met: list[bool] = []
        task = asyncio.ensure_future(self.use(self.provider, prompt))
        cancel(loop, task, turns, met)
        await asyncio.wait({task}, timeout=20)
        loop.forget()
        assert task.done(), f"hangs when cancelled after {turns} turns"
        if any(met):
            assert task.cancelled(), (turns, task)
            self.cancellations += 1
        else:
            task.result()
        for _ in range(20):  # clean-up in the background takes a few more turns
            if not self.left(before):
                break
            await asyncio.sleep(0)
        for _ in range(500):
            if not self.left(before):
                break
            await asyncio.sleep(0.001)  # closing a connection takes some time
        assert not self.left(before), (turns, self.left(before))
        self.compare(task, count, self.begun - begun, turns)
        return any(met)

    def left(self, before: set[asyncio.Task[Any]]) -> list[Any]:
        limiter = self.provider._limiter
        slots = [f"{limiter.running} running, {limiter.queued} queued"] if limiter.running or limiter.queued else []
        return [*slots, *(asyncio.all_tasks() - before)]

    def outcomes(self) -> dict[str, int]:
        stats = self.provider.stats()
        return {
            outcome: getattr(stats, f"generations_{outcome}") + getattr(stats, f"embeddings_{outcome}")
            for outcome in ("succeeded", "cancelled", "failed")
        } | {"streams": stats.streams_succeeded, "streams cancelled": stats.streams_cancelled}

    def compare(self, task: asyncio.Task[Any], before: dict[str, int], begun: int, turns: int) -> None:
        """Each request is counted once, by its outcome."""
        now = self.outcomes()
        ended = {name: now[name] - before[name] for name in now}
        assert ended["failed"] == 0, (turns, ended)
        assert ended["succeeded"] + ended["cancelled"] == begun, (turns, ended)
        completed = [stream.end in ("done", "max_chunks") for stream in streams if stream.end is not None]
        if completed:
            by_hand = self.use is stream_by_hand
            assert ended["streams"] == sum(completed), (turns, ended)
            assert ended["streams cancelled"] == len(completed) - sum(completed), (turns, ended)
            assert by_hand or task.cancelled() or all(completed)
        elif begun == 1:
            assert ended["cancelled"] == task.cancelled(), (turns, ended)
        elif not task.cancelled():
            assert ended["cancelled"] == 0, (turns, ended)

    async def run(self, loop: TurnLoop) -> None:
        provider = self.provider
        for number in range(2):  # one-time work, imports above all
            gates.append(Gate())
            gates[-1].open()
            await self.use(provider, f"<{number}>")
        for cancel in WAYS:
            undisturbed = 0
            for turns in range(MOST_TURNS):
                undisturbed = 0 if await self.round(loop, cancel, turns) else undisturbed + 1
                if undisturbed == UNDISTURBED:
                    break
                if turns % 4 == 0:  # other calls still work in between
                    await asyncio.wait_for(asyncio.gather(*(achat(provider, "next") for _ in range(2))), 20)
            assert undisturbed == UNDISTURBED, f"not all steps were reached in {MOST_TURNS} turns"
        await asyncio.wait_for(asyncio.gather(*(achat(provider, "next") for _ in range(4))), 20)
        assert self.cancellations >= FEWEST_CANCELLATIONS
        await self.server.wait_for_async(lambda s: s.active_requests == 0)
        await provider.aclose()
        await self.server.wait_for_async(lambda s: s.open_connections == 0)
        print(f"{self.use.__name__}: {self.cancellations} cancellations")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize(
    "use",
    [
        achat,
        achat_on_a_new_connection,
        agenerate_at_once,
        embed_in_several_requests,
        stream_by_a_loop,
        stream_by_hand,
        stream_read_by_read,
        stream_in_a_block,
        stream_with_max_chunks,
        queued_stream,
        queued_call,
        retried_call,
        retried_stream,
        structured_output,
        close_the_provider,
    ],
)
def test_cancelling_after_any_turn_leaks_nothing(use: Use, transport: str, server: OllamaServer) -> None:
    server.reply('{"name": "Rome"}', contains="[json]")
    server.reply(TEXT, path="/api/chat", predicate=lambda record: "[held]" not in record.text)
    server.reply(TEXT, path="/api/generate")
    rounds = Rounds(server, transport, use)
    run_by_turns(rounds.run)
