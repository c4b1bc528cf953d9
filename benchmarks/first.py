"""The cost of a client's first answer: `python -m benchmarks.first CLIENT URL`, in milliseconds of CPU.

Prints the first one of the process, imports included, and the mean of later ones, each over a new client.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

_LATER = 20
_MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


async def _aiohttp(url: str) -> None:
    import aiohttp
    import orjson

    body = orjson.dumps({"model": "bench", "messages": _MESSAGES, "options": {"num_predict": 1}})
    async with aiohttp.ClientSession() as session, session.post(f"{url}/api/chat", data=body) as response:
        async for data in response.content.iter_any():
            for line in data.splitlines():
                orjson.loads(line)


async def _core(url: str) -> None:
    from namel3ss_ollama import OllamaProvider

    async with OllamaProvider("bench", url) as provider:
        async for _ in provider.stream_chat(_MESSAGES, max_tokens=1):
            pass


async def _ollama_python(url: str) -> None:
    import ollama

    async for _ in await ollama.AsyncClient(url).chat("bench", _MESSAGES, stream=True, options={"num_predict": 1}):
        pass


_CLIENTS: dict[str, Callable[[str], Awaitable[None]]] = {
    "aiohttp": _aiohttp,
    "core": _core,
    "ollama_python": _ollama_python,
}


async def _measure(ask: Callable[[str], Awaitable[None]], url: str) -> None:
    began = time.process_time()
    await ask(url)
    first = time.process_time()
    for _ in range(_LATER):
        await ask(url)
    print((first - began) * 1e3, (time.process_time() - first) / _LATER * 1e3)


if __name__ == "__main__":
    asyncio.run(_measure(_CLIENTS[sys.argv[1]], sys.argv[2]))
