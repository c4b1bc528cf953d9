"""Resending, connection pooling and the timeouts of each call, over both transports."""

from __future__ import annotations

import asyncio
import gc
import importlib
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from namel3ss_ollama import (
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    ModelNotFoundError,
    OllamaProvider,
    RetryPolicy,
    StreamConfig,
    aiohttp_transport,
    connections,
    transport,
)
from namel3ss_ollama.testing import Gate, OllamaServer, Record

TEXT = "one two three"
ASK = [{"role": "user", "content": "count"}]
OFF = RetryPolicy.off()
Call = Callable[[OllamaProvider], Awaitable[Any]]


async def streamed(provider: OllamaProvider) -> str:
    return "".join([chunk.content async for chunk in provider.stream_chat(ASK)])


CALLS: dict[str, Call] = {
    "achat": lambda provider: provider.achat(ASK),
    "stream": streamed,
    "embed": lambda provider: provider.embed("a", model="all-minilm"),
    "list_models": lambda provider: provider.list_models(),
}


def sent(server: OllamaServer, method: str) -> list[Record]:
    return [record for record in server.requests if record.method == method]


# Pooled connections


@pytest.mark.parametrize("retry", [RetryPolicy(), OFF], ids=["retries", "no retries"])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("call", list(CALLS))
async def test_requests_survive_idle_connections_that_the_server_closed(
    make: Any, ollama_server: OllamaServer, call: str, how: Any, retry: RetryPolicy
) -> None:
    # Once wrong: half of such a burst failed, and emptied the retry budget, unless the loop had seen the FIN before.
    provider = make(max_concurrent=20, retry=retry)
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate, path="/api/chat")
    first = asyncio.gather(*(provider.achat(ASK) for _ in range(20)))
    await ollama_server.wait_for_async(lambda _: gate.waiting == 20)
    gate.open()
    await first
    assert ollama_server.open_connections == 20
    ollama_server.drop_connections(how)  # blocks this thread: its loop sends before it sees the close
    answers = await asyncio.gather(*(CALLS[call](provider) for _ in range(20)))
    assert len(answers) == 20
    assert provider.stats().retries == 0


@pytest.mark.parametrize("fault", ["close_before_headers", "reset_before_headers"])
@pytest.mark.parametrize("call", list(CALLS))
async def test_a_fresh_connection_that_breaks_is_an_error(
    make: Any, ollama_server: OllamaServer, call: str, fault: Any
) -> None:
    # Once wrong for GET and DELETE: the HTTP library sent them again by itself.
    ollama_server.fault(fault)
    with pytest.raises(LLMConnectionError):
        await CALLS[call](make(retry=OFF))
    assert len(ollama_server.requests) == 1


async def test_an_upload_is_not_sent_again(make: Any, ollama_server: OllamaServer) -> None:
    """Its chunks are consumed, and the broken pooled connection may have sent some."""
    ollama_server.fault("close_before_headers", predicate=lambda record: record.method == "POST")
    with pytest.raises(LLMConnectionError):
        [progress async for progress in make(retry=OFF).create_model("mine", files={"a": b"weights"})]
    assert [record.method for record in ollama_server.requests] == ["HEAD", "POST"]
    assert ollama_server.connections == 1


async def test_few_idle_connections_are_kept(
    make: Any, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once wrong: 300 stayed open where 100 are documented.
    monkeypatch.setattr(aiohttp_transport, "MAX_IDLE_CONNECTIONS", 3)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=3, keepalive_expiry=30)
    monkeypatch.setattr(transport, "_UNLIMITED", limits)
    provider = make(max_concurrent=10)
    gate = Gate()
    ollama_server.reply(TEXT, gate=gate)
    calls = asyncio.gather(*(provider.achat(ASK) for _ in range(10)))
    await ollama_server.wait_for_async(lambda _: gate.waiting == 10)
    gate.open()
    await calls
    await ollama_server.wait_for_async(lambda s: s.open_connections == 3)
    await provider.achat(ASK)
    assert ollama_server.connections == 10


# Deletions


@pytest.fixture
def loses_a_response(ollama_server: OllamaServer) -> OllamaServer:
    """Has a model "backup", deletes it on request, and drops the response."""
    ollama_server.models.add("backup")

    def first(record: Record) -> bool:
        if record.method != "DELETE" or len(sent(ollama_server, "DELETE")) > 1:
            return False
        ollama_server.models.remove("backup")
        return True

    ollama_server.fault("close_before_headers", predicate=first)
    return ollama_server


async def test_a_deletion_is_sent_once(make: Any, loses_a_response: OllamaServer) -> None:
    # Once wrong: the HTTP library repeated it, with retries off as well.
    with pytest.raises(LLMConnectionError):
        await make(retry=OFF).delete_model("backup")
    assert len(sent(loses_a_response, "DELETE")) == 1


async def test_a_deletion_whose_response_was_lost_succeeds(make: Any, loses_a_response: OllamaServer) -> None:
    # Once wrong: ModelNotFoundError, for what the previous attempt had deleted.
    provider = make()
    await provider.delete_model("backup")
    assert len(sent(loses_a_response, "DELETE")) == 2
    with pytest.raises(ModelNotFoundError):
        await provider.delete_model("backup")
    assert len(sent(loses_a_response, "DELETE")) == 3


@pytest.mark.parametrize("transport", ["aiohttp"], indirect=True)
async def test_a_deletion_on_a_broken_pooled_connection_succeeds(make: Any, loses_a_response: OllamaServer) -> None:
    """Plain httpx does not report that the connection was pooled: there it is an error."""
    provider = make(retry=OFF)
    await provider.version()
    await provider.delete_model("backup")
    assert len(sent(loses_a_response, "DELETE")) == 2
    with pytest.raises(ModelNotFoundError):
        await provider.delete_model("backup")


# Bodies


async def test_a_request_of_over_a_mebibyte_is_sent_without_a_warning(make: Any, ollama_server: OllamaServer) -> None:
    # Once wrong: aiohttp's ResourceWarning, an error where warnings are errors.
    text = "word " * 300_000
    await make().achat([{"role": "user", "content": text}])
    chat = next(record for record in ollama_server.requests if record.path == "/api/chat")  # there is a look-up too
    assert chat.payload["messages"][0]["content"] == text


async def test_an_upload_has_a_binary_content_type(make: Any, ollama_server: OllamaServer) -> None:
    [progress async for progress in make().create_model("mine", files={"a": b"weights"})]
    upload = next(record for record in ollama_server.requests if "/api/blobs/" in record.path and record.body)
    assert upload.headers["content-type"] == "application/octet-stream"
    assert ollama_server.requests[-1].headers["content-type"] == "application/json"


# Deadlines


async def test_connect_timeout_covers_the_dns_look_up(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[object] = []

    async def look_up(host: object, *_: object, **__: object) -> list[Any]:
        looked_up.append(host)
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    provider = make(base_url="http://ollama.test:1234", retry=OFF, stream_config=StreamConfig(connect_timeout=0.05))
    began = time.monotonic()
    with pytest.raises(LLMTimeoutError) as caught:
        await provider.achat(ASK)
    assert (caught.value.deadline, caught.value.seconds) == ("connect", 0.05)
    assert time.monotonic() - began < 2
    assert looked_up


@pytest.fixture
def importing(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """An import that lasts until the event is set."""
    go_on = threading.Event()

    def import_module(name: str) -> object:
        assert go_on.wait(10)
        return importlib.import_module(name)

    monkeypatch.setattr(connections, "importlib", SimpleNamespace(import_module=import_module))
    yield go_on
    go_on.set()


async def test_the_import_of_the_transport_counts_against_the_deadline(
    make: Any, ollama_server: OllamaServer, importing: threading.Event
) -> None:
    # Once wrong: timeout=1 took as long as the import.
    provider = make()
    provider._client.connections._to_import = lambda: "json"
    with pytest.raises(LLMTimeoutError) as caught:
        await provider.achat(ASK, timeout=0.05)
    assert caught.value.deadline == "timeout"
    importing.set()
    assert (await provider.achat(ASK)).content


async def test_the_import_of_the_transport_does_not_use_the_default_executor(
    make: Any, ollama_server: OllamaServer
) -> None:
    provider = make()
    provider._client.connections._to_import = lambda: "json"
    busy = threading.Event()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        loop.set_default_executor(pool)
        waits = loop.run_in_executor(None, busy.wait, 10)
        assert (await provider.achat(ASK, timeout=5)).content
        busy.set()
        await waits


TIMED: dict[str, Call] = {
    "preload": lambda p: p.preload(),
    "unload": lambda p: p.unload(),
    "list_models": lambda p: p.list_models(),
    "running_models": lambda p: p.running_models(),
    "show_model": lambda p: p.show_model(),
    "version": lambda p: p.version(),
    "context_window": lambda p: p.context_window(),
    "copy_model": lambda p: p.copy_model("llama3.2", "b"),
    "delete_model": lambda p: p.delete_model("b"),
    "embed": lambda p: p.embed(["a", "b"], batch_size=1),
    "achat": lambda p: p.achat(ASK),
}


@pytest.mark.parametrize("call", list(TIMED))
async def test_timeout_limits_every_call(make: Any, ollama_server: OllamaServer, call: str) -> None:
    # Once wrong: only answers had that limit, everything else waited for first_chunk_timeout.
    ollama_server.fault("stall_before_headers")
    began = time.monotonic()
    with pytest.raises(LLMTimeoutError) as caught:
        await TIMED[call](make(timeout=0.05))
    assert caught.value.deadline == "timeout"
    assert time.monotonic() - began < 2


async def test_timeout_limits_the_waits_between_attempts(make: Any, ollama_server: OllamaServer) -> None:
    ollama_server.fault("status", status=503, retry_after=30)
    began = time.monotonic()
    with pytest.raises(LLMError, match="503"):
        await make(timeout=0.5).list_models()
    assert time.monotonic() - began < 2


async def test_timeout_limits_preflight(make: Any, ollama_server: OllamaServer) -> None:
    ollama_server.fault("stall_before_headers")
    began = time.monotonic()
    assert not (await make(timeout=0.05).preflight()).ok
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("method", ["pull_model", "push_model", "create_model"])
async def test_transfers_have_a_timeout_of_their_own(make: Any, ollama_server: OllamaServer, method: str) -> None:
    arguments: dict[str, Any] = {"from_model": "llama3.2"} if method == "create_model" else {}
    gate = Gate()
    ollama_server.reply("", lines=[{"status": "begun"}, {"status": "success"}], gates={1: gate})
    progress = getattr(make(timeout=0.01), method)("mine", timeout=0.2, **arguments)
    assert await progress.__anext__() == {"status": "begun"}
    with pytest.raises(LLMTimeoutError) as caught:
        await progress.__anext__()
    assert (caught.value.deadline, caught.value.seconds) == ("timeout", 0.2)
    gate.open()
    assert len([step async for step in getattr(make(timeout=0.01), method)("mine", timeout=9, **arguments)]) == 2


async def test_a_late_unstreamed_answer_names_its_deadline(make: Any, ollama_server: OllamaServer) -> None:
    # Once wrong: "call preload() first", though the model was loaded and running.
    ollama_server.fault("stall_before_headers")
    config = StreamConfig(first_chunk_timeout=0.05)
    with pytest.raises(LLMTimeoutError, match="raise first_chunk_timeout, or stream it"):
        await make().achat(ASK, stream=False, stream_config=config)


async def test_a_server_that_refuses_the_key_is_available(make: Any, ollama_server: OllamaServer) -> None:
    ollama_server.fault("status", status=401)
    assert await make().is_available()


# Custom clients and transports


@pytest.mark.parametrize(
    ("what", "wanted"),
    [("http_client", "not an httpx.AsyncClient"), ("transport", "not an httpx.AsyncBaseTransport, nor 'aiohttp'")],
)
def test_another_librarys_objects_are_refused(what: str, wanted: str) -> None:
    # Once wrong: such a transport was silently ignored.
    class Client:
        __module__ = "httpx2._client"

    settings: Any = {what: Client()}
    with pytest.raises(TypeError, match=rf"{what}: httpx2\..*Client is {wanted}"):
        OllamaProvider("llama3.2", **settings)


@pytest.mark.parametrize("what", ["http_client", "transport"])
def test_a_custom_client_on_a_second_loop_is_a_clear_error(what: str, ollama_server: OllamaServer) -> None:
    # Once wrong: a bare RuntimeError, "Event loop is closed".
    custom: Any = httpx.AsyncClient() if what == "http_client" else httpx.AsyncHTTPTransport()
    provider = OllamaProvider("llama3.2", ollama_server.url, retry=OFF, **{what: custom})
    assert asyncio.run(provider.version())
    with pytest.raises(LLMError, match="belongs to another event loop") as caught:
        asyncio.run(provider.version())
    assert not caught.value.temporary
    del custom, provider, caught
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # asyncio's, about what the first loop left open
        gc.collect()
