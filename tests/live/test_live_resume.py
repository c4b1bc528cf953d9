"""A stream that breaks off resumes on a real model: at temperature 0 the same bytes as without the cut.

The hosts are two addresses of one relay to the server. The relay answers the first chat with the beginning of an
earlier answer of the server, and breaks off; it forwards everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from one_layer import one_layer
from plain_server import plain_server

from namel3ss_ollama import Hosts, OllamaProvider, RetryPolicy

pytestmark = pytest.mark.server_only("it needs an address to put something before")
MODEL, TOKENS = one_layer("smollm2:135m"), 14
PROMPTS = [
    "Count from one to twenty in words, with commas.",
    "Write a short list of three fruits, one a line, each with a colour.",
    "Say something about the sea, with a question in it.",
    "Hello!",
    "Write code that adds two numbers.",
    "Schreibe einen Satz über den Mond.",
    "What is 2 + 2?",
    "Name a city, a river and a mountain.",
    "Tell me a story that begins with rain.",
    "用一句话介绍北京。",
]


class Relay:
    """Forwards requests; the next chat gets `beginning` instead, without an end."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.beginning: list[bytes] | None = None
        self.chats: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
                if path == "/api/chat" and self.beginning is not None:
                    lines, self.beginning = self.beginning, None
                    chunks = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in lines)
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
                    await writer.drain()
                    return
                if path == "/api/chat":
                    self.chats.append(body)
                answer = await self._http.request(method, path, content=body)
                writer.write(
                    b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n" % (answer.status_code, len(answer.content))
                )
                writer.write(answer.content)
                await writer.drain()


@pytest.fixture
async def relay(copies: str) -> AsyncIterator[tuple[Relay, int]]:
    async with httpx.AsyncClient(base_url=copies, timeout=120, trust_env=False) as http:
        made = Relay(http)
        async with plain_server(made.serve) as server:
            yield made, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
async def test_every_cut_of_an_answer(relay: tuple[Relay, int], prompt: str, copies: str) -> None:
    through, port = relay
    ask: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    options = {"temperature": 0, "num_predict": TOKENS}
    async with httpx.AsyncClient(base_url=copies, timeout=120, trust_env=False) as http:
        lines = (await http.post("/api/chat", json={**ask, "options": options})).content.splitlines(keepends=True)
    async with OllamaProvider(
        MODEL,
        Hosts([f"http://127.0.0.1:{port}", f"http://localhost:{port}"], resume="auto"),
        temperature=0,
        max_tokens=TOKENS,
        trust_env=False,
        retry=RetryPolicy(budget=None),
    ) as provider:
        await provider.look_at_hosts()
        uncut = (await provider.achat(ask["messages"])).content
        for cut in range(1, len(lines) - 1):
            through.beginning = lines[:cut]
            stream = provider.stream_chat(ask["messages"])
            text = "".join([chunk.content async for chunk in stream])
            assert (text, stream.resumed) == (uncut, 1), f"cut after {cut} lines"
            assert stream.response is not None
            assert stream.response.usage.completion_tokens <= TOKENS
            assert len(stream.response.metadata["hosts"]) == 2
