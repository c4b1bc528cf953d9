"""TLS and proxies, over both transports: they behave as httpx documents."""

from __future__ import annotations

import asyncio
import gc
import importlib.machinery
import importlib.util
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from plain_server import plain_server

from namel3ss_ollama import AuthenticationError, LLMConnectionError, LLMError, OllamaProvider, RetryPolicy
from namel3ss_ollama.testing import OllamaServer

ANSWER = b'{"version":"1.2.3"}'
Handler = Callable[[str, dict[str, str]], bytes]


@pytest.fixture(params=["aiohttp", "httpx"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that gives every request what `handler(request line, headers)` returns; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.strip().split("\r\n")
            headers = {k.lower(): v for k, v in (h.split(": ", 1) for h in rest)}
            writer.write(handler(line, headers))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async with plain_server(serve, tls) as server:
        yield server.sockets[0].getsockname()[1]


def ok(body: bytes = ANSWER, status: str = "200 OK") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode() + body


async def test_tls_is_verified_with_the_given_context(transport: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    trusting = ssl.create_default_context(cafile=str(bundle))
    async with serving(lambda *_: ok(), context) as port:
        url = f"https://127.0.0.1:{port}"
        async with OllamaProvider("m", url, transport=transport, retry=RetryPolicy.off()) as stranger:
            with pytest.raises(LLMConnectionError, match=r"(?i)certificate"):
                await stranger.version()
        for verify in (trusting, False):
            async with OllamaProvider("m", url, transport=transport, verify=verify) as provider:
                assert await provider.version() == "1.2.3"


async def test_https_to_a_plain_http_server_names_the_fix(transport: str) -> None:
    with OllamaServer() as server:
        url = server.url.replace("http://", "https://")
        async with OllamaProvider("m", url, transport=transport) as provider:
            with pytest.raises(LLMConnectionError, match="use http:// instead of https://") as caught:
                await provider.version()
    assert "Is Ollama running" not in str(caught.value)
    assert not caught.value.temporary


@pytest.mark.parametrize(
    "body",
    [
        b"Client sent an HTTP request to an HTTPS server.\n",  # Go's servers
        b"<html><h1>The plain HTTP request was sent to HTTPS port</h1></html>",
    ],
    ids=["text", "page"],
)
async def test_plain_http_to_an_https_server_names_the_fix(transport: str, body: bytes) -> None:
    async with (
        serving(lambda *_: ok(body, "400 Bad Request")) as port,
        OllamaProvider("m", f"http://127.0.0.1:{port}", transport=transport) as provider,
    ):
        with pytest.raises(LLMError, match="use https:// instead of http://"):
            await provider.version()


async def test_an_untrusted_certificate_names_the_setting(transport: str) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    async with (
        serving(lambda *_: ok(), tls) as port,
        OllamaProvider("m", f"https://127.0.0.1:{port}", transport=transport) as provider,
    ):
        with pytest.raises(LLMConnectionError, match="SSL_CERT_FILE"):
            await provider.version()


async def test_a_proxy_is_used(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def proxy(line: str, headers: dict[str, str]) -> bytes:
        seen.append(line)
        return ok()

    async with serving(proxy) as port:
        async with OllamaProvider(
            "m", "http://ollama.test:1234", transport=transport, proxy=f"http://127.0.0.1:{port}"
        ) as provider:
            assert await provider.version() == "1.2.3"
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with OllamaProvider("m", "http://ollama.test:1234", transport=transport) as provider:
            assert await provider.version() == "1.2.3"
    assert seen == ["GET http://ollama.test:1234/api/version HTTP/1.1"] * 2


async def test_a_tls_proxy_of_the_environment_is_verified(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(trusting)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with serving(lambda *_: ok(), context) as port:
        monkeypatch.setenv("HTTP_PROXY", f"https://127.0.0.1:{port}")
        async with OllamaProvider(
            "m", "http://ollama.test:1234", transport=transport, retry=RetryPolicy.off()
        ) as provider:
            with pytest.raises(LLMConnectionError, match=r"(?i)certificate"):
                await provider.version()
        # A client that trusts it is served; by then the server has seen that the first connection is closed.
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.write(b"GET / HTTP/1.1\r\nHost: proxy\r\n\r\n")
        assert (await reader.read()).endswith(ANSWER)
        writer.close()
        await writer.wait_closed()
    with warnings.catch_warnings():
        # Before Python 3.11 asyncio leaves the server's side of a failed handshake to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def test_a_proxy_that_requires_a_login(transport: str) -> None:
    async with serving(lambda *_: ok(b"", "407 Proxy Authentication Required")) as port:
        proxy = f"http://127.0.0.1:{port}"
        async with OllamaProvider("m", "http://ollama.test", transport=transport, proxy=proxy) as provider:
            with pytest.raises(AuthenticationError, match="proxy"):
                await provider.version()


async def test_a_proxy_gets_its_login_with_every_request(transport: str) -> None:
    # Once wrong: aiohttp's DeprecationWarning, an error where warnings are errors.
    seen: list[str] = []

    def proxy(line: str, headers: dict[str, str]) -> bytes:
        seen.append(headers.get("proxy-authorization", ""))
        return ok()

    async with serving(proxy) as port:
        address = f"http://user:pass%40word@127.0.0.1:{port}"
        async with OllamaProvider("m", "http://ollama.test", transport=transport, proxy=address) as provider:
            for _ in range(2):
                assert await provider.version() == "1.2.3"
    assert seen == ["Basic dXNlcjpwYXNzQHdvcmQ="] * 2  # user:pass@word


async def test_a_proxy_gets_its_login_with_a_tunnel(transport: str) -> None:
    """And the server behind it does not."""
    seen: list[tuple[str, str]] = []

    def proxy(line: str, headers: dict[str, str]) -> bytes:
        seen.append((line, headers.get("proxy-authorization", "")))
        return ok(b"", "502 Bad Gateway")

    async with serving(proxy) as port:
        settings: Any = {"transport": transport, "proxy": f"http://user:word@127.0.0.1:{port}"}
        async with OllamaProvider("m", "https://ollama.test", retry=RetryPolicy.off(), **settings) as provider:
            with pytest.raises(LLMError):
                await provider.version()
    assert seen == [("CONNECT ollama.test:443 HTTP/1.1", "Basic dXNlcjp3b3Jk")]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("source", ["proxy", "HTTP_PROXY"])
async def test_an_unreachable_proxy_is_named(
    scheme: str, source: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once wrong: "cannot connect to http://ollama.test. Is Ollama running?"
    address = "http://user:pass%40word@127.0.0.1:9"
    settings: dict[str, Any] = {"proxy": address}
    if source == "HTTP_PROXY":
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(f"{scheme}_proxy", address)
        settings = {}
    async with OllamaProvider(
        "m", f"{scheme}://ollama.test", transport=transport, retry=RetryPolicy.off(), **settings
    ) as provider:
        with pytest.raises(
            LLMConnectionError, match=r"^cannot connect to the proxy http://127\.0\.0\.1:9 on"
        ) as caught:
            await provider.version()
    advice = "check `proxy`" if source == "proxy" else "NO_PROXY"
    assert advice in str(caught.value)
    assert "ollama serve" not in str(caught.value)
    assert "word" not in str(caught.value) + repr(caught.value.original_error)


@pytest.mark.parametrize("status", ["403 Forbidden", "502 Bad Gateway", "503 Service Unavailable"])
async def test_an_error_page_may_be_the_proxys(status: str, transport: str) -> None:
    async with serving(lambda *_: ok(b"<html>no</html>", status)) as port:
        settings: Any = {"transport": transport, "proxy": f"http://user:word@127.0.0.1:{port}"}
        async with OllamaProvider("m", "http://ollama.test", retry=RetryPolicy.off(), **settings) as provider:
            with pytest.raises(LLMError, match=rf"through the proxy http://127\.0\.0\.1:{port}, which may be at fault"):
                await provider.version()


async def test_an_error_of_ollama_is_not_blamed_on_the_proxy(transport: str) -> None:
    async with serving(lambda *_: ok(b'{"error":"no"}', "500 Internal Server Error")) as port:
        settings: Any = {"transport": transport, "proxy": f"http://127.0.0.1:{port}"}
        async with OllamaProvider("m", "http://ollama.test", retry=RetryPolicy.off(), **settings) as provider:
            with pytest.raises(LLMError) as caught:
                await provider.version()
    assert "proxy" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind", "temporary"),
    [
        ("403 Forbidden", LLMConnectionError, False),
        ("407 Proxy Authentication Required", AuthenticationError, False),
        ("502 Bad Gateway", LLMConnectionError, True),
    ],
)
async def test_a_proxy_that_refuses_a_tunnel_is_named(
    status: str, kind: type[LLMError], temporary: bool, transport: str
) -> None:
    async with serving(lambda *_: ok(b"", status)) as port:
        settings: Any = {"transport": transport, "proxy": f"http://user:word@127.0.0.1:{port}"}
        async with OllamaProvider("m", "https://ollama.test", retry=RetryPolicy.off(), **settings) as provider:
            with pytest.raises(kind, match=rf"the proxy http://127\.0\.0\.1:{port} .*{status[:3]}") as caught:
                await provider.version()
    assert caught.value.temporary is temporary


async def test_localhost_bypasses_the_environments_proxy(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with serving(lambda *_: ok()) as port:
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            async with OllamaProvider("m", f"http://{host}:{port}", transport=transport) as provider:
                assert await provider.version() == "1.2.3"


async def test_an_explicit_proxy_is_used_for_localhost_too(transport: str) -> None:
    async with serving(lambda *_: ok()) as port:
        settings: Any = {"transport": transport, "proxy": f"http://127.0.0.1:{port}"}
        async with OllamaProvider("m", "http://127.0.0.1:9", **settings) as provider:
            assert await provider.version() == "1.2.3"


async def test_no_tls_context_is_built_for_plain_http(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would load every certificate of the machine: tens of milliseconds for nothing."""

    def refuse(*_: object, **__: object) -> ssl.SSLContext:
        raise AssertionError("certificates were loaded")

    monkeypatch.setattr(ssl, "create_default_context", refuse)
    async with OllamaProvider("m", "http://127.0.0.1:9", transport=transport, trust_env=False) as provider:
        assert isinstance(await provider._get_client(), httpx.AsyncClient)


# SOCKS


@pytest.fixture
async def socks(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, list[bytes]]]:
    """The address of a listener in place of a SOCKS proxy, and the bytes that it received."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(1000))
        writer.close()

    async with plain_server(serve) as server:
        yield f"socks5://127.0.0.1:{server.sockets[0].getsockname()[1]}", received


def socksio_is(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    found = importlib.machinery.ModuleSpec("socksio", None) if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: found if name == "socksio" else real(name))


@pytest.mark.parametrize("source", ["argument", "httpx.Proxy", "ALL_PROXY", "http_proxy"])
async def test_a_socks_proxy_without_its_package_is_refused_at_construction(
    source: str, transport: str, socks: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once wrong: the key and the prompt were sent to it in plain HTTP.
    url, received = socks
    socksio_is(False, monkeypatch)
    settings: dict[str, Any] = {"proxy": url if source == "argument" else httpx.Proxy(url)}
    if source not in ("argument", "httpx.Proxy"):
        monkeypatch.setenv(source, url)
        settings = {}
    with pytest.raises(ValueError, match=r"SOCKS proxy needs pip install 'httpx\[socks\]'"):
        OllamaProvider("m", "http://ollama.test", transport=transport, **settings)
    OllamaProvider("m", "http://ollama.test", transport=transport, trust_env=False)
    assert received == []


@pytest.mark.parametrize("source", ["argument", "ALL_PROXY"])
def test_a_socks_proxy_goes_over_plain_httpx(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    socksio_is(True, monkeypatch)
    proxy = "socks5://127.0.0.1:9"
    if source == "ALL_PROXY":
        monkeypatch.setenv("ALL_PROXY", proxy)
    provider = OllamaProvider("m", "http://ollama.test", proxy=proxy if source == "argument" else None)
    http = provider._client.http
    assert http.to_import("http://ollama.test") is None
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("namel3ss_ollama.transport._HttpxClient", lambda **options: made.append(options))
    http.make_client("http://ollama.test")
    assert [options["proxy"] for options in made] == [proxy]


async def test_a_socks_proxy_for_other_addresses_is_ignored(
    transport: str, socks: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once wrong over plain httpx: ImportError, at the first call.
    socksio_is(False, monkeypatch)
    monkeypatch.setenv("ALL_PROXY", socks[0])
    async with serving(lambda *_: ok()) as port:
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{port}")
        async with OllamaProvider("m", "http://ollama.test", transport=transport) as provider:
            assert await provider.version() == "1.2.3"
    assert socks[1] == []


async def test_no_proxy_is_honoured(
    transport: str, socks: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, received = socks
    socksio_is(False, monkeypatch)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with serving(lambda *_: ok()) as port:
        for proxy in (url, url.replace("socks5", "http")):
            monkeypatch.setenv("ALL_PROXY", proxy)
            async with OllamaProvider("m", f"http://127.0.0.1:{port}", transport=transport) as provider:
                assert await provider.version() == "1.2.3"
    assert received == []
