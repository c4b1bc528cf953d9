"""The cost of HTTP and JSON alone: lines are split and parsed, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx
import httpx_aiohttp
import orjson

from benchmarks.clients import MESSAGES, PROMPT, UNLIMITED, Client, PacedClient


def _body(tokens: int, model: str = "bench") -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, "options": {"num_predict": tokens}}


class _Counter:
    """Counts characters in pieces of a body."""

    def __init__(self) -> None:
        self._rest = b""
        self.characters = 0

    def feed(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self.characters += len(orjson.loads(line)["message"]["content"])


def raw_socket(url: str) -> Client:
    """asyncio's streams and a parser made for this server: the limit."""
    parts = urlsplit(url)

    async def run(tokens: int) -> int:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=256 * 1024)
        body = orjson.dumps(_body(tokens))
        writer.write(b"POST /api/chat HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        characters = 0
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            data = await reader.read(256 * 1024)
            pieces = (rest + data).split(b"\r\n")
            rest = pieces.pop()
            if pieces and pieces[-1] == b"" and pieces[-2] == b"0":
                rest = b"0\r\n\r\n"
            for piece in pieces:
                if piece.startswith(b"{"):
                    characters += len(orjson.loads(piece)["message"]["content"])
        writer.close()
        return characters

    return run


def open_session() -> aiohttp.ClientSession:
    """A session without limits."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(None))


def plain_aiohttp(url: str) -> Client:
    """aiohttp and orjson."""
    session: list[aiohttp.ClientSession] = []

    async def run(tokens: int) -> int:
        if not session:  # it belongs to the event loop that creates it
            session.append(open_session())
        counter = _Counter()
        async with session[0].post(url + "/api/chat", json=_body(tokens)) as response:
            async for data in response.content.iter_any():
                counter.feed(data)
        return counter.characters

    return run


def plain_httpx(url: str) -> Client:
    """httpx and orjson."""
    return _of_httpx(httpx.AsyncClient(limits=UNLIMITED, timeout=None), url)


def httpx_over_aiohttp(url: str) -> Client:
    """httpx-aiohttp and orjson."""
    return _of_httpx(httpx_aiohttp.HttpxAiohttpClient(limits=UNLIMITED, timeout=None), url)


def _of_httpx(client: httpx.AsyncClient, url: str) -> Client:
    async def run(tokens: int) -> int:
        counter = _Counter()
        async with client.stream("POST", url + "/api/chat", json=_body(tokens)) as response:
            async for data in response.aiter_bytes():
                counter.feed(data)
        return counter.characters

    return run


async def texts(session: aiohttp.ClientSession, url: str) -> AsyncIterator[str]:
    """The texts of an answer whose tokens come one at a time, over aiohttp and orjson."""
    async with session.post(url + "/api/chat", json=_body(1, "live")) as response:
        rest = b""
        async for data in response.content.iter_any():
            lines = (rest + data).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield orjson.loads(line)["message"]["content"]


def paced(url: str) -> PacedClient:
    """aiohttp and orjson; not over `texts`, since a generator would make the floor more expensive."""
    session: list[aiohttp.ClientSession] = []

    async def run(arrived: Callable[[str], None]) -> None:
        if not session:
            session.append(open_session())
        async with session[0].post(url + "/api/chat", json=_body(1, "live")) as response:
            rest = b""
            async for data in response.content.iter_any():
                lines = (rest + data).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    arrived(orjson.loads(line)["message"]["content"])

    return run


def paced_raw(url: str) -> PacedClient:
    """asyncio's streams: the limit."""
    parts = urlsplit(url)

    async def run(arrived: Callable[[str], None]) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        body = orjson.dumps(_body(1, "live"))
        writer.write(b"POST /api/chat HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        try:
            await reader.readuntil(b"\r\n\r\n")
            rest = b""
            while data := await reader.read(64 * 1024):
                pieces = (rest + data).split(b"\r\n")
                rest = pieces.pop()
                for piece in pieces:
                    if piece.startswith(b"{"):
                        arrived(orjson.loads(piece)["message"]["content"])
        finally:
            writer.close()

    return run


async def batch(url: str, prompts: int, at_once: int, tokens: int, model: str = "bench") -> None:
    """Answers to many prompts: all requests at once, with one in flight per connection."""

    async def ask(session: aiohttp.ClientSession) -> str:
        body = {"model": model, "prompt": PROMPT, "stream": False, "options": {"num_predict": tokens}}
        async with session.post(f"{url}/api/generate", data=orjson.dumps(body)) as response:
            text: str = orjson.loads(await response.read())["response"]
            return text

    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None)) as session:
        answers = await asyncio.gather(*(ask(session) for _ in range(prompts)))
    assert all(answers)
