"""Keys and passwords never appear in reprs, logs, errors or pickles, and are not sent to other servers."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import pickle
import traceback
import types
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest
from langchain_core.load import dumps
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from plain_server import plain_server

from langchain_namel3ss_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import BadRequestError, Host, LLMError, OllamaProvider, StreamConfig, instant_retries
from namel3ss_ollama.testing import OllamaServer

SECRET = "s3cr3t"
ENCODED = "dXNlcjpzM2NyM3Q"  # user:s3cr3t, as Basic sends it
MESSAGE = [{"role": "user", "content": "hello"}]
WAYS = ("key", "password", "header", "environment")


@pytest.fixture(autouse=True)
def _instant() -> Iterator[None]:
    with instant_retries():
        yield


def settings_of(way: str, url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    if way == "environment":
        monkeypatch.setenv("OLLAMA_API_KEY", SECRET)
    if way == "hosts":
        hosts = [url.replace("http://", f"http://user:{SECRET}@"), Host("http://127.0.0.1:9", api_key=SECRET)]
        return {"base_url": [*hosts, Host("http://127.0.0.1:19", slots=2, headers={"X-Key": SECRET})]}
    if way == "password":
        url = url.replace("http://", f"http://user:{SECRET}@")
    return {"base_url": url, **{"key": {"api_key": SECRET}, "header": {"headers": {"X-Key": SECRET}}}.get(way, {})}


def assert_sent(server: OllamaServer, way: str) -> None:
    """The secret was sent, so that its absence elsewhere is significant."""
    headers = server.requests[-1].headers
    assert SECRET in headers.get("x-key", "") + headers.get("authorization", "") or ENCODED in headers["authorization"]


def hidden(text: str) -> bool:
    return SECRET not in text and ENCODED not in text


def full_report(error: BaseException) -> str:
    """Everything that a traceback would print, and the reprs that a debugger would show."""
    report = "".join(traceback.format_exception(error))
    seen: BaseException | None = error
    while seen is not None:
        report += f"{seen!r} {seen.__dict__!r}"
        seen = seen.__cause__ or seen.__context__
    return report


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("way", WAYS)
def test_secrets_are_not_shown(
    way: str,
    transport: str,
    ollama_server: OllamaServer,
    caplog: pytest.LogCaptureFixture,
    sdk: tuple[InMemorySpanExporter, InMemoryMetricReader],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in reprs, in any library's debug log, in spans, or in errors with their complete chain."""
    caplog.set_level(logging.DEBUG)
    sdk[0].clear()
    settings = settings_of(way, ollama_server.url, monkeypatch)
    with OllamaProvider("llama3.2", transport=transport, capture_content=True, **settings) as provider:
        provider.chat(MESSAGE)
        list(provider.stream("hello"))
        assert_sent(ollama_server, way)
        shown = [repr(provider), str(provider), repr(provider.stats()), repr(provider.options)]
        for fault, options in (
            ("status", {"status": 401}),
            ("status", {"status": 502, "html": True}),
            ("cut", {}),
            ("malformed_line", {}),
            ("redirect", {"location": "http://127.0.0.1:9/"}),
            ("stall_before_headers", {}),
            ("refuse", {}),
        ):
            ollama_server.reset()
            ollama_server.fault(fault, **options)
            with pytest.raises(LLMError) as caught:
                provider.chat(MESSAGE, stream_config=StreamConfig(first_chunk_timeout=0.02))
            shown.append(full_report(caught.value))
    assert caplog.records
    assert len(sdk[0].get_finished_spans()) == 9
    shown += [f"{record.getMessage()} {record.__dict__!r}" for record in caplog.records]
    shown += [span.to_json() for span in sdk[0].get_finished_spans()]
    assert all(map(hidden, shown))


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
def test_secrets_of_several_hosts_are_not_shown(
    transport: str,
    ollama_server: OllamaServer,
    caplog: pytest.LogCaptureFixture,
    sdk: tuple[InMemorySpanExporter, InMemoryMetricReader],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    sdk[0].clear()
    settings = settings_of("hosts", ollama_server.url, monkeypatch)
    with OllamaProvider("llama3.2", transport=transport, capture_content=True, **settings) as provider:
        for _ in range(3):
            assert provider.chat(MESSAGE).host == ollama_server.url
        list(provider.stream("hello"))
        assert_sent(ollama_server, "password")
        shown = [repr(provider), repr(provider.where), repr(provider.addresses), repr(provider.sync.look_at_hosts())]
        ollama_server.refuse()
        with pytest.raises(LLMError) as caught:
            provider.chat(MESSAGE, timeout=0.1)
        shown.append(full_report(caught.value))
    shown += [f"{record.getMessage()} {record.__dict__!r}" for record in caplog.records]
    shown += [span.to_json() for span in sdk[0].get_finished_spans()]
    assert len(sdk[0].get_finished_spans()) == 5
    assert any("127.0.0.1:9" in text for text in shown)
    assert all(map(hidden, shown))


@pytest.mark.parametrize("make", [ChatOllama, OllamaLLM, OllamaEmbeddings, Ollama, OllamaEmbedding])
@pytest.mark.parametrize("way", [*WAYS, "hosts"])
def test_adapters_do_not_show_secrets(way: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(way, "http://box:1234", monkeypatch)
    name = "model_name" if make is OllamaEmbedding else "model"
    one = make(**{name: "m"}, **settings)
    shown = [repr(one), str(one)]
    if make in (ChatOllama, OllamaLLM):
        shown += [dumps(one), repr(one.asdict()), repr(one._identifying_params)]
    elif make is OllamaEmbeddings:
        shown += [repr(one.model_dump()), one.model_dump_json()]
    else:
        shown += [repr(one.to_dict()), one.to_json(), repr(one.to_payload())]
    assert all(map(hidden, shown))
    if make in (ChatOllama, OllamaLLM) and way == "key":
        assert '"OLLAMA_API_KEY"' in dumps(one)  # named as a secret that is required to load it


PROMPT = "pr1v4te"


def found_in(thing: object, needle: str, path: str, seen: dict[int, object]) -> Iterator[str]:
    """Paths to a text in an exception: its chain and attributes, recursively. Frames show everything, so skip them."""
    if id(thing) in seen or isinstance(thing, (types.TracebackType, types.FrameType, types.ModuleType, type)):
        return
    seen[id(thing)] = thing  # kept alive, so that its id is not reused
    if isinstance(thing, (str, bytes, bytearray)):
        text = thing if isinstance(thing, str) else bytes(thing).decode("latin-1")
        if needle in text:
            yield path
        return
    children: dict[str, object] = {}
    if isinstance(thing, Mapping):
        children = {f"[{key!r:.20}]": value for key, value in thing.items()}
        children |= {f"key {number}": key for number, key in enumerate(thing)}
    elif isinstance(thing, (list, tuple, set, frozenset)):
        children = {f"[{number}]": value for number, value in enumerate(thing)}
    names = set(vars(thing)) if hasattr(thing, "__dict__") else set()
    for cls in type(thing).__mro__:
        slots = vars(cls).get("__slots__", ())
        names |= {slots} if isinstance(slots, str) else set(slots)
    if isinstance(thing, BaseException):
        names |= {"args", "__cause__", "__context__"}
    for name in names:
        with contextlib.suppress(AttributeError):
            children[f".{name}"] = getattr(thing, name)
    for name, child in children.items():
        yield from found_in(child, needle, path + name, seen)


def not_http(_: bytes) -> bytes:
    return b"SSH-2.0-server\r\n"


def login(_: bytes) -> bytes:
    return b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def cut(_: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"


def nothing(_: bytes) -> bytes:
    return b""


def echo(request: bytes) -> bytes:
    return request


def wrong_length(request: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + request


ANSWERS = [not_http, login, cut, nothing, echo, wrong_length]
FAILURES = [*(answer.__name__ for answer in ANSWERS), "refused", "timeout", "proxy refused", "https", "look-up"]


@contextlib.asynccontextmanager
async def failing(how: str) -> AsyncIterator[int]:
    """The port of a server that fails in that way."""
    answers = {answer.__name__: answer for answer in ANSWERS}
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            request = await reader.read(65536)
            if how == "timeout":
                await over.wait()
            writer.write(answers.get(how, nothing)(request))
            await writer.drain()
        writer.close()

    async with plain_server(serve) as server:
        port = server.sockets[0].getsockname()[1]
        if "refused" in how:
            server.close()
        yield port
        over.set()


@pytest.mark.parametrize("way", ["key", "password", "header"])
@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("transport", ["aiohttp", "httpx", "own"])
async def test_no_error_holds_the_key_or_the_prompt(
    transport: str, how: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once wrong over httpx: `error.__cause__.request.headers["authorization"]`.
    async with failing(how) as port:
        proxy = f"http://user:{SECRET}@127.0.0.1:{port}" if how in ("login", "proxy refused") else None
        url = "http://ollama.test" if proxy else f"http://127.0.0.1:{port}"
        url = url.replace("http", "https") if how == "https" else url
        if how == "look-up":
            url = "http://ollama.invalid"

            async def look_up(*_: object, **__: object) -> list[Any]:
                raise OSError("no such host")

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
        settings = settings_of(way, url, monkeypatch)
        own = httpx.AsyncClient(proxy=proxy)
        settings |= {"http_client": own} if transport == "own" else {"transport": transport, "proxy": proxy}
        config = StreamConfig(first_chunk_timeout=0.05 if how == "timeout" else 5.0)
        async with own, OllamaProvider("m", stream_config=config, **settings) as provider:
            with pytest.raises(LLMError) as caught:
                await provider.achat([{"role": "user", "content": PROMPT}])
            with pytest.raises(LLMError) as streamed:
                async for _ in provider.stream_chat([{"role": "user", "content": PROMPT}]):
                    pass
    for error in (caught.value, streamed.value):
        for needle in (SECRET, ENCODED, PROMPT):
            assert list(found_in(error, needle, "error", {})) == []


# Pickles


def pickles(make: Callable[..., Any], way: str, monkeypatch: pytest.MonkeyPatch, url: str) -> bytes:
    name = "model_name" if make is OllamaEmbedding else "model"
    return pickle.dumps(make(**{name: "llama3.2"}, **settings_of(way, url, monkeypatch)))


CLASSES = [OllamaProvider, ChatOllama, OllamaLLM, OllamaEmbeddings, Ollama, OllamaEmbedding]


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("way", ["key", "password", "environment"])
def test_a_pickle_has_no_secrets_and_reads_them_from_the_environment(
    make: Any, way: str, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = pickles(make, way, monkeypatch, ollama_server.url)
    assert hidden(pickled.decode("latin-1"))
    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)

    def authorization(again: Any = None) -> str:
        again = pickle.loads(pickled) if again is None else again
        provider = again if isinstance(again, OllamaProvider) else None
        if provider is None:
            provider = again.provider if hasattr(again, "class_name") else again._provider_for(sync=True)
        provider.generate("hello", model="llama3.2")
        return ollama_server.requests[-1].headers["authorization"]

    for again in (pickle.loads(pickled), pickle.loads(pickle.dumps(pickle.loads(pickled)))):
        # Not during unpickling: that would kill a pool's worker and lose its task.
        with pytest.raises(ValueError, match="set OLLAMA_API_KEY here"):
            authorization(again)
    assert ollama_server.connections == 0

    monkeypatch.setenv("OLLAMA_API_KEY", "another")
    assert authorization() == "Bearer another"
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://user:word@elsewhere:1")  # another server's
    assert authorization() == "Bearer another"
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama_server.url.replace("http://", f"http://user:{SECRET}@"))
    assert authorization().startswith(f"Basic {ENCODED}")


@pytest.mark.parametrize("make", CLASSES)
def test_a_pickled_object_without_a_key_gets_none(
    make: Any, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = pickles(make, "", monkeypatch, ollama_server.url)
    monkeypatch.setenv("OLLAMA_API_KEY", SECRET)
    again = pickle.loads(pickled)
    if make is OllamaProvider:
        again.generate("hello")
    elif make is OllamaEmbedding:
        again.get_text_embedding("hello")
    elif make is OllamaEmbeddings:
        again.embed_query("hello")
    else:
        (again.invoke if hasattr(again, "invoke") else again.complete)("hello")
    assert "authorization" not in ollama_server.requests[-1].headers


@pytest.mark.parametrize("make", CLASSES)
def test_secrets_without_an_environment_variable_are_not_pickled(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if make not in (Ollama, OllamaEmbedding):
        with pytest.raises(TypeError, match="a provider made with headers"):
            pickles(make, "header", monkeypatch, "http://box")
        return
    # LlamaIndex silently drops attributes that fail to pickle, so its classes raise on first use instead.
    pickled = pickles(make, "header", monkeypatch, "http://box")
    assert hidden(pickled.decode("latin-1"))
    with pytest.raises(ValueError, match="a provider made with headers"):
        _ = pickle.loads(pickled).provider


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"headers": {"X-Key": SECRET}}, r"headers \(X-Key\)"),
        ({"proxy": f"http://user:{SECRET}@proxy:1"}, "a proxy's password"),
        ({"proxy": httpx.Proxy("http://proxy:1", auth=("user", SECRET))}, "a proxy's password"),
        ({"cert": ("c.pem", "k.pem", SECRET)}, "passphrase"),
        ({"http_client": httpx.AsyncClient()}, "an http_client"),
        ({"transport": httpx.MockTransport(lambda request: httpx.Response(200))}, "a custom transport"),
    ],
)
def test_a_pickling_error_names_the_cause(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(TypeError, match=named) as caught:
        pickle.dumps(OllamaProvider("m", **settings))
    assert hidden(str(caught.value))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_unpickled_provider_has_the_same_settings(ollama_server: OllamaServer, protocol: int) -> None:
    settings: dict[str, Any] = {
        "max_concurrent": 3, "max_queue": 7, "queue_timeout": 2.0, "timeout": 9.0, "on_truncation": "error",
        "stream_config": StreamConfig(chunk_timeout=3), "temperature": 0.5, "transport": "httpx", "trust_env": False,
        "verify": False, "proxy": None, "cert": None, "capture_content": True,
    }  # fmt: skip
    provider = OllamaProvider("llama3.2", ollama_server.url, **settings)
    provider.generate("hello")
    again = pickle.loads(pickle.dumps(provider, protocol))
    assert again is not provider
    assert (again.model, again.base_url, again.options) == ("llama3.2", ollama_server.url, {"temperature": 0.5})
    kept = again.__reduce__()[1][1]
    assert {name: kept[name] for name in settings} == settings
    assert kept == provider.__reduce__()[1][1]
    assert again.generate("hello").content
    assert ollama_server.requests[0].payload == ollama_server.requests[1].payload
    assert again.stats().generations_succeeded == 1
    provider.close()
    again.close()


def test_a_copy_is_the_provider_itself() -> None:
    """Otherwise, a deep copy of an object that holds a provider would have its own concurrency limit."""
    provider = OllamaProvider("m", headers={"X-Key": SECRET})
    assert copy.copy(provider) is copy.deepcopy({"one": provider})["one"] is provider


# Other servers


@pytest.mark.parametrize("transport", ["aiohttp", "httpx", "own"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("way", ["key", "password", "header"])
async def test_a_redirect_is_not_followed(
    way: str, status: int, transport: str, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even by a user's client that follows redirects itself."""
    settings = settings_of(way, ollama_server.url, monkeypatch)
    own = httpx.AsyncClient(follow_redirects=True)
    settings |= {"http_client": own} if transport == "own" else {"transport": transport}
    with OllamaServer() as other:
        ollama_server.fault("redirect", status=status, location=f"{other.url}/api/chat")
        async with own, OllamaProvider("llama3.2", **settings) as provider:
            for call in (provider.achat(MESSAGE), provider.list_models(), provider.embed("hello")):
                with pytest.raises(BadRequestError, match="redirects are not followed"):
                    await call
        assert other.connections == 0
    assert_sent(ollama_server, way)
