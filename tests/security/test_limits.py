"""Whatever a server sends, memory is bounded, and the result is a response or an `LLMError`."""

from __future__ import annotations

import gc
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from langchain_namel3ss_ollama import ChatOllama
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import (
    LLMError,
    MalformedResponseError,
    OllamaProvider,
    RetryPolicy,
    ServerBusyError,
    ServerError,
    StreamConfig,
    client,
    compression,
)
from namel3ss_ollama.testing import OllamaServer

MESSAGE = [{"role": "user", "content": "hello"}]
MIB = 2**20
LIMIT = 200_000
ROOM = 8 * MIB
"""Additional memory that reading may use: the limits, a few buffers, and imported modules."""


@pytest.fixture(params=["aiohttp", "httpx"])
def provider(request: pytest.FixtureRequest, ollama_server: OllamaServer) -> Iterator[OllamaProvider]:
    settings: dict[str, Any] = {"retry": RetryPolicy.off(), "stream_config": StreamConfig(max_line_bytes=LIMIT)}
    with OllamaProvider("llama3.2", ollama_server.url, transport=request.param, **settings) as provider:
        provider.generate("hello")  # so that nothing is imported when memory is measured
        provider.close()
        yield provider


async def consumed(stream: Any) -> None:
    async for _ in stream:
        pass


CALLS: dict[str, Callable[[OllamaProvider], Awaitable[Any]]] = {
    "whole": lambda p: p.achat(MESSAGE),
    "streaming": lambda p: consumed(p.stream_chat(MESSAGE)),
    "one object": lambda p: p.achat(MESSAGE, stream=False),
    "embed": lambda p: p.embed("hello"),
    "list": lambda p: p.list_models(),
    "pull": lambda p: consumed(p.pull_model("x")),
}


async def peak_of(work: Awaitable[Any]) -> tuple[BaseException | None, int]:
    """The error, if any, and the peak memory in bytes."""
    tracemalloc.start()
    error: BaseException | None = None
    try:
        await work
    except LLMError as failure:
        error = failure
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return error, peak


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """100 kB that decompress to 100 MiB."""
    packer = zlib.compressobj(9, wbits=31)
    block = b" " * MIB
    return b"".join([*(packer.compress(block) for _ in range(100)), packer.flush()])


@pytest.mark.parametrize("call", CALLS)
async def test_a_gzip_bomb_is_not_fully_decompressed(
    call: str, provider: OllamaProvider, ollama_server: OllamaServer, bomb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_LONGEST_JSON_BODY", MIB)
    ollama_server.reset()
    ollama_server.on(predicate=lambda _: True).fault(
        "status", status=200, body=bomb, headers={"Content-Encoding": "gzip"}
    )
    error, peak = await peak_of(CALLS[call](provider))
    assert isinstance(error, MalformedResponseError)
    assert peak < ROOM
    await ollama_server.wait_for_async(lambda s: s.active_requests == 0)
    await provider.aclose()


@pytest.mark.parametrize("call", ["whole", "embed"])
async def test_a_gzip_bomb_in_an_error_response(
    call: str, provider: OllamaProvider, ollama_server: OllamaServer, bomb: bytes
) -> None:
    ollama_server.reset()
    ollama_server.fault("status", status=503, body=bomb, headers={"Content-Encoding": "gzip"})
    error, peak = await peak_of(CALLS[call](provider))
    assert isinstance(error, ServerBusyError)
    assert peak < ROOM
    await provider.aclose()


@pytest.mark.parametrize("call", CALLS)
async def test_an_endless_body_or_line(
    call: str, provider: OllamaProvider, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_LONGEST_JSON_BODY", MIB)
    ollama_server.reset()
    ollama_server.fault("status", status=200, body=b"[" + b" " * (24 * MIB))
    with pytest.raises(MalformedResponseError):
        await CALLS[call](provider)
    # It was not read to the end.
    await ollama_server.wait_for_async(lambda s: s.requests[0].outcome == "client_closed" and s.open_connections == 0)
    await provider.aclose()


async def test_a_very_long_error_is_truncated(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    ollama_server.reset()
    for body in (b"x" * (24 * MIB), json.dumps({"error": "y" * 60_000}).encode()):
        ollama_server.fault("status", status=500, body=body, times=1)
        with pytest.raises(ServerError) as caught:
            await provider.achat(MESSAGE)
        assert len(str(caught.value)) < 500
    ollama_server.fault("error_line", message="z" * 100_000, times=1)
    with pytest.raises(ServerError) as caught:
        await provider.achat(MESSAGE)
    assert len(str(caught.value)) < 500
    await provider.aclose()


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip, br", "nonsense" * 100])
async def test_an_unsupported_content_encoding(
    encoding: str, provider: OllamaProvider, ollama_server: OllamaServer
) -> None:
    headers = {"Content-Encoding": encoding}
    ollama_server.reset()
    ollama_server.fault("status", status=200, body=b"\x1b\xff" * 100, headers=headers, times=2)
    with pytest.raises(MalformedResponseError, match="compressed") as caught:
        await provider.achat(MESSAGE)
    assert len(str(caught.value)) < 300
    with pytest.raises(MalformedResponseError, match="compressed"):
        await provider.embed("hello")
    # The status determines the error, even if the body cannot be decoded.
    ollama_server.fault("status", status=502, body=b"\x1b\xff", headers=headers, times=1)
    with pytest.raises(ServerError, match="502"):
        await provider.achat(MESSAGE)
    await provider.aclose()


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "deflate"])
@pytest.mark.parametrize("size", [10, compression._PIECE - 1, compression._PIECE, 3 * compression._PIECE])
async def test_a_compressed_response_is_complete(
    encoding: str, size: int, provider: OllamaProvider, ollama_server: OllamaServer
) -> None:
    ollama_server.reset()
    line = json.dumps({"model": "m", "message": {"content": "é" * size}, "done": True}).encode()
    body = zlib.compress(line) if encoding == "deflate" else gzip.compress(line)
    config = StreamConfig(max_line_bytes=10 * MIB)
    for data in (body, body + b"what follows is no part of it"):
        ollama_server.fault("status", status=200, body=data, headers={"Content-Encoding": encoding}, times=1)
        assert (await provider.achat(MESSAGE, stream_config=config)).content == "é" * size
    ollama_server.fault("status", status=200, body=body[:-12], headers={"Content-Encoding": encoding}, times=1)
    with pytest.raises(LLMError):
        await provider.achat(MESSAGE, stream_config=config)
    await provider.aclose()


# Depth


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Deep in a recursion, the garbage collector may run unrelated finalizers, which then hit the recursion limit."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("depth", [100, 900, 1_000, 1_100, 5_000, 60_000])
@pytest.mark.parametrize("place", ["line", "arguments", "text of arguments", "content", "error"])
async def test_deep_json_is_an_error_or_an_answer(
    place: str, depth: int, provider: OllamaProvider, ollama_server: OllamaServer
) -> None:
    """Never a RecursionError, whether it is read or sent back."""
    deep = nested(depth)
    arguments = deep if place == "arguments" else json.dumps(deep)
    call = f'{{"tool_calls":[{{"function":{{"name":"f","arguments":{arguments}}}}}]}}'
    message = {"line": deep, "content": f'{{"content":{json.dumps(deep)}}}', "error": "{}"}.get(place, call)
    line = f'{{"model":"m","message":{message},"done":true,"done_reason":"stop"}}'
    if place == "error":
        line = f'{{"error":{deep}}}'
    ollama_server.reset()
    ollama_server.reply("", lines=[line.encode() + b"\n"], path="/api/chat")

    async def ask() -> None:
        response = await provider.achat(MESSAGE, format=dict if place == "content" else None)
        await provider.achat([*MESSAGE, {"role": "assistant", "tool_calls": response.tool_calls}])

    async def langchain() -> None:
        message = await ChatOllama(provider=provider).ainvoke("hello")
        await ChatOllama(provider=provider).ainvoke(["hello", message])

    async def llama_index() -> None:
        await Ollama(provider=provider, context_window=4096).acomplete("hello")

    for work in (ask, langchain, llama_index):
        try:
            await work()
        except (LLMError, ValueError):  # a ValueError: arguments too deep to be sent back
            pass
    await provider.aclose()
