"""`num_parallel` limits concurrent requests: the others wait in order, and `total_duration` includes that."""

from __future__ import annotations

import asyncio

import pytest

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.testing import Gate, OllamaServer


async def test_requests_beyond_the_limit_wait_in_order() -> None:
    gate = Gate()
    with OllamaServer(num_parallel=2) as server:
        server.reply("word", gate=gate)
        async with OllamaProvider("llama3.2", server.url) as provider:
            tasks = []
            for number in range(4):
                tasks.append(asyncio.create_task(provider.agenerate(f"question {number}")))
                await server.wait_for_async(lambda s, count=number + 1: len(s.requests) == count)
            await server.wait_for_async(lambda s: gate.waiting == 2)
            assert not any(record.queued for record in server.requests)
            gate.step()
            await server.wait_for_async(lambda s: s.requests[2].queued > 0 and gate.waiting == 2)
            assert server.requests[3].queued == 0
            gate.open()
            answers = await asyncio.gather(*tasks)
    waits = []
    for answer in answers:
        total, *parts = (answer.metadata[f"{part}_duration"] for part in ("total", "load", "prompt_eval", "eval"))
        waits.append(total - sum(parts))
    assert waits[0] == waits[1] < min(waits[2:])
    assert waits[3] >= int(server.requests[3].queued * 1e9)


async def test_a_queued_client_that_disconnects_takes_no_slot() -> None:
    gate = Gate()
    with OllamaServer(num_parallel=1) as server:
        server.reply("word", gate=gate)
        async with OllamaProvider("llama3.2", server.url) as provider:
            first, second, third = (asyncio.create_task(provider.agenerate(text)) for text in ("a", "b", "c"))
            await server.wait_for_async(lambda s: len(s.requests) == 3 and gate.waiting == 1)
            waits = next(record for record in server.requests if record.text == "b")
            second.cancel()
            await server.wait_for_async(lambda s: waits.outcome == "client_closed")
            gate.open()
            assert [(await task).content for task in (first, third)] == ["word", "word"]


async def test_loading_and_lists_need_no_slot() -> None:
    gate = Gate()
    with OllamaServer(num_parallel=1) as server:
        server.reply("word", gate=gate)
        async with OllamaProvider("llama3.2", server.url) as provider:
            task = asyncio.create_task(provider.agenerate("a"))
            await server.wait_for_async(lambda s: gate.waiting == 1)
            await provider.preload()
            assert await provider.running_models()
            gate.open()
            await task


def test_stopping_ends_queued_requests() -> None:
    server = OllamaServer(num_parallel=1).start()
    server.reply("word", gate=Gate())

    async def ask() -> None:
        async with OllamaProvider("llama3.2", server.url) as provider:
            tasks = [asyncio.create_task(provider.agenerate("a")) for _ in range(3)]
            await server.wait_for_async(lambda s: len(s.requests) == 3)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(ask())
    server.stop()
    assert server.active_requests == 0


def test_an_invalid_limit() -> None:
    with pytest.raises(ValueError, match="num_parallel"):
        OllamaServer(num_parallel=0)
