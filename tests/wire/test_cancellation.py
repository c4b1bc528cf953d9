"""Cancelling at random points, two thousand times: no connection, task or slot leaks.

The points are scheduler steps, not times: a task is cancelled after a random number of turns of the event loop, which
reaches every await between the first and the last, on any machine.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from namel3ss_ollama import LLMError, StreamConfig
from namel3ss_ollama.testing import Gate, OllamaServer

ASK = [{"role": "user", "content": "count"}]
ROUNDS = 1000  # for each of two transports
AT_ONCE = 8
SLOTS = 4


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_cancelling_anywhere_leaks_nothing(make: Any, ollama_server: OllamaServer) -> None:
    chance = random.Random(20)
    provider = make(max_concurrent=SLOTS, stream_config=StreamConfig(chunk_timeout=30))
    held = Gate()
    ollama_server.reply(" ".join(["word"] * 40), path="/api/chat")
    ollama_server.reply(["one", "two", "three"], path="/api/generate", gates={2: held})
    outcomes = {"answered": 0, "cancelled": 0}

    async def complete() -> None:
        await provider.achat(ASK)

    async def stream() -> None:
        async for _ in provider.stream_chat(ASK):
            await turns(chance.randrange(2))

    async def left_early() -> None:
        async for _ in provider.stream_chat(ASK):
            break

    async def held_stream() -> None:
        async for _ in provider.stream_generate("count"):
            pass

    async def one() -> None:
        work = chance.choice([complete, stream, left_early, held_stream])
        task = asyncio.ensure_future(work())
        await turns(chance.randrange(60))
        if work is held_stream or chance.random() < 0.8:
            task.cancel()
        try:
            await task
            outcomes["answered"] += 1
        except asyncio.CancelledError:
            assert task.cancelled()
            outcomes["cancelled"] += 1

    before = asyncio.all_tasks()
    for _ in range(ROUNDS // AT_ONCE):
        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
        assert provider.stats().queued == 0
    assert outcomes["answered"] > ROUNDS // 20
    assert outcomes["cancelled"] > ROUNDS // 4

    # Cancelled calls released their slots: all slots can be acquired at once.
    held.open()
    answers = await asyncio.gather(*(provider.achat(ASK) for _ in range(SLOTS)))
    assert all(answer.finish_reason == "stop" for answer in answers)
    await provider.aclose()
    await ollama_server.wait_for_async(lambda s: s.open_connections == 0 and s.active_requests == 0)
    await turns(20)
    assert asyncio.all_tasks() - before == set()
    stats = provider.stats()
    assert (stats.running, stats.queued) == (0, 0)


async def test_a_cancelled_taskgroup_sibling(provider: Any, ollama_server: OllamaServer) -> None:
    """One call fails, the others are cancelled: all of them end, and nothing leaks."""
    gate = Gate()
    ollama_server.reply("slow", gate=gate, path="/api/chat")
    ollama_server.fault("status", status=400, path="/api/generate")
    tasks = [asyncio.create_task(provider.achat(ASK)) for _ in range(3)]
    await ollama_server.wait_for_async(lambda _: gate.waiting == 3)
    with pytest.raises(LLMError, match="400"):
        await provider.agenerate("x")
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    await ollama_server.wait_for_async(lambda s: s.active_requests == 0)
