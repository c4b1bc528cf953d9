"""Unusual HTTP, as gateways produce it: accepted where possible, otherwise a clear error."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from plain_server import plain_server

from namel3ss_ollama import MalformedResponseError, OllamaProvider, RetryPolicy

LINE = b'{"message":{"content":"Hi"},"done":true}\n'
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(LINE), LINE)
HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
ASK = [{"role": "user", "content": "Hi"}]


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@asynccontextmanager
async def answering(answer: bytes, transport: str) -> AsyncIterator[OllamaProvider]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with plain_server(serve) as server:
        port = server.sockets[0].getsockname()[1]
        async with OllamaProvider(
            "m", f"http://127.0.0.1:{port}", transport=transport, retry=RetryPolicy.off()
        ) as made:
            yield made


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"x-policy: " + b"a" * 60_000 + b"\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED,
        HEAD + b"content-encoding: deflate\r\n\r\n" + raw_deflate(LINE),
        HEAD + b"content-encoding: deflate\r\n\r\n" + zlib.compress(LINE),
        HEAD.replace(b"\r\n", b"\n") + b"\n" + LINE,
        HEAD.replace(b" OK", b"") + b"\r\n" + LINE,
    ],
    ids=["long-header", "raw-deflate", "deflate", "lines-end-with-lf", "no-reason"],
)
async def test_unusual_http_is_accepted(answer: bytes, transport: str) -> None:
    async with answering(answer, transport) as provider:
        assert (await provider.achat(ASK)).content == "Hi"


@pytest.mark.parametrize(
    ("headers", "flaw"),
    [
        (b"transfer-encoding: chunked\r\ncontent-length: 41\r\n", "can't be present with"),
        (b"content-length: 41\r\ntransfer-encoding: chunked\r\n", "can't be present with"),
        (b"x-policy: " + b"private" * 20_000 + b"\r\ntransfer-encoding: chunked\r\n", "Got more than"),
    ],
)
async def test_what_aiohttp_rejects_is_an_error_with_a_remedy(headers: bytes, flaw: str) -> None:
    async with answering(HEAD + headers + b"\r\n" + CHUNKED, "aiohttp") as provider:
        with pytest.raises(MalformedResponseError, match=flaw) as caught:
            await provider.achat(ASK)
    assert "transport='httpx'" in str(caught.value)
    assert "private" not in str(caught.value)
