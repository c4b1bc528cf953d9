"""The default limit on concurrent requests adapts to the server: a short queue there, and no idle slot."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from namel3ss_ollama import OllamaProvider, RetryPolicy
from namel3ss_ollama.testing import Gate, OllamaServer, Record, Reply


async def read(provider: OllamaProvider, text: str) -> str:
    return "".join([chunk.content async for chunk in provider.stream_generate(text)])


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_fully_parallel_server_gets_all_requests(ollama_server: OllamaServer, streaming: bool) -> None:
    gate = Gate()
    ollama_server.reply("one two", gates={1: gate})  # the first token is immediate, the second waits for all requests
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        ask = read if streaming else OllamaProvider.agenerate
        tasks = [asyncio.create_task(ask(provider, f"question {number}")) for number in range(60)]
        await ollama_server.wait_for_async(lambda _: gate.waiting == 60)
        gate.open()
        await asyncio.gather(*tasks)


async def test_a_server_with_one_slot_gets_a_short_queue() -> None:
    gate = Gate()
    with OllamaServer(num_parallel=1) as server:
        server.reply("one two", gates={1: gate})
        async with OllamaProvider("llama3.2", server.url) as provider:
            tasks = [asyncio.create_task(read(provider, f"question {number}")) for number in range(30)]
            for answered in range(30):
                # The one that is being answered, and ten that wait for their first token.
                sent = min(answered + 11, 30)
                await server.wait_for_async(lambda s, sent=sent: len(s.requests) == sent)
                await server.wait_for_async(lambda _: gate.waiting == 1)
                assert server.active_requests <= 11
                gate.step()
            await asyncio.gather(*tasks)
            assert provider.stats().running == 0


async def test_a_batch_reads_a_hundred_prompts_ahead_at_most(ollama_server: OllamaServer) -> None:
    gate = Gate()
    ollama_server.reply("one two", gate=gate)
    drawn = 0

    def prompts() -> Iterator[str]:
        nonlocal drawn
        for drawn in range(1, 301):
            yield f"question {drawn}"

    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        batch = asyncio.create_task(provider.agenerate_batch(prompts()))
        await ollama_server.wait_for_async(lambda _: gate.waiting == 10)
        assert drawn == 100
        gate.open()
        assert len(await batch) == 300


async def test_a_retried_request_counts_as_waiting(ollama_server: OllamaServer) -> None:
    """Ten answers break off after their first token: their retries leave no room for other requests."""
    gate = Gate()
    number = itertools.count()

    def reply(_: Record) -> Reply:
        return Reply("one two", gate=gate if next(number) >= 10 else None)

    ollama_server.fault("reset_mid_stream", at_token=1, times=10)
    ollama_server.reply(reply)
    quick = RetryPolicy(attempts=11, wait_initial=0.001, wait_max=0.001, budget=None)
    async with OllamaProvider("llama3.2", ollama_server.url, retry=quick) as provider:
        tasks = [asyncio.create_task(provider.agenerate(f"question {number}")) for number in range(10)]
        await ollama_server.wait_for_async(lambda _: gate.waiting == 10)
        assert len(ollama_server.requests) == 20
        assert provider._limiter.try_acquire() is None
        gate.open()
        await asyncio.gather(*tasks)
