"""Stop a stream early: the connection closes at once, the server stops generating, and the slot is free.

There are three ways: `stream.cancel()` from elsewhere, a timeout around the loop, and leaving the loop. The text
received so far stays available.
"""

from __future__ import annotations

import asyncio

from _common import parser, pull_if_missing, run

from namel3ss_ollama import OllamaProvider

PROMPT = "Tell a very long story about the sea."


async def cancelled_from_elsewhere(provider: OllamaProvider) -> None:
    stream = provider.stream_generate(PROMPT, max_tokens=500)
    seen = 0
    async for _ in stream:
        seen += 1
        if seen == 5:
            asyncio.get_running_loop().call_soon(stream.cancel)  # or from a button, another task, a signal handler
    print(f"cancelled: end={stream.end!r}, {len(stream.text)} characters are kept")


async def stopped_by_a_deadline(provider: OllamaProvider) -> None:
    stream = provider.stream_generate(PROMPT, max_tokens=500)
    began = asyncio.Event()

    async def read() -> None:
        async for _ in stream:
            began.set()

    task = asyncio.create_task(read())
    await began.wait()  # so that the timeout does not include loading the model
    try:
        await asyncio.wait_for(task, timeout=0.05)
    except asyncio.TimeoutError:
        print(f"deadline: end={stream.end!r}, {len(stream.text)} characters are kept")


async def left_early(provider: OllamaProvider) -> None:
    stream = provider.stream_generate(PROMPT, max_tokens=500)
    async for chunk in stream:
        if chunk.content.strip():
            break
    await stream.aclose()
    print(f"left: end={stream.end!r}, slots taken: {provider.stats().running}")


async def main() -> None:
    given = parser(__doc__).parse_args()
    async with OllamaProvider(given.model, given.base_url, max_concurrent=1) as provider:
        await pull_if_missing(provider)
        await cancelled_from_elsewhere(provider)
        await stopped_by_a_deadline(provider)
        await left_early(provider)


if __name__ == "__main__":
    run(main())
