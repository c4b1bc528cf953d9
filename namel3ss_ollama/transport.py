"""How HTTP clients are made; `connections.py` keeps one for each event loop.

The address `embedded://` means the engine in this process (`embedded/`), which is a transport as well. Otherwise the
default is httpx over aiohttp (`aiohttp_transport.py`), which costs a third of plain httpx per streamed token and scales
to many streams; `transport="httpx"` selects plain httpx, and any `httpx.AsyncBaseTransport` or `httpx.AsyncClient` can
be passed instead. Those of httpx2 cannot: it shares no class with httpx, so requests would have to be rebuilt, streams
wrapped and exceptions translated.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import ssl
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
from httpx._client import ClientState

from namel3ss_ollama.address import EMBEDDED_URL
from namel3ss_ollama.pooling import KEEPALIVE_SECONDS, MAX_IDLE_CONNECTIONS, bare_transport, close_socket
from namel3ss_ollama.proxies import check_proxy, environment_proxy

__all__ = ["HTTPSettings", "TransportChoice"]

TransportChoice = Literal["aiohttp", "httpx"] | httpx.AsyncBaseTransport
_AIOHTTP = "namel3ss_ollama.aiohttp_transport"
_EMBEDDED = "namel3ss_ollama.embedded"
_UNLIMITED = httpx.Limits(
    max_connections=None, max_keepalive_connections=MAX_IDLE_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS
)


@dataclass(frozen=True, slots=True)
class HTTPSettings:
    """How connections are opened; names and meanings are httpx's.

    Attributes:
        transport: "aiohttp" (the default, fast), "httpx", or a custom transport.
        client: A custom client, used unchanged on every loop and never closed here.
        verify: TLS verification: True, False, a CA bundle's path or an `ssl.SSLContext`.
        cert: A client certificate.
        proxy: The proxy's URL, for all addresses; if None and `trust_env`, the environment's proxies are used, except
            for loopback addresses. A SOCKS proxy uses httpx and needs the package `socksio`.
        trust_env: Whether HTTP_PROXY and similar variables are used.
    """

    transport: TransportChoice = "aiohttp"
    client: httpx.AsyncClient | None = None
    verify: ssl.SSLContext | str | bool = True
    cert: str | tuple[str, str] | tuple[str, str, str] | None = None
    proxy: str | httpx.URL | httpx.Proxy | None = field(default=None, repr=False)
    trust_env: bool = True

    def check(self, url: str) -> None:
        """Reject settings that no client can be made with.

        Raises:
            TypeError: The client or the transport is not httpx's.
            ValueError: The proxy's address is invalid, or it is a SOCKS proxy and the package for those is missing.
        """
        if not isinstance(self.transport, (str, httpx.AsyncBaseTransport)):
            raise TypeError(f"transport: {_not_ours(self.transport, 'AsyncBaseTransport')}, nor 'aiohttp' or 'httpx'")
        if not isinstance(self.client, (httpx.AsyncClient, type(None))):
            raise TypeError(f"http_client: {_not_ours(self.client, 'AsyncClient')}")
        proxy = self.proxy_for(url)
        if proxy is None:
            return
        source = "proxy" if self.proxy is not None else "the proxy in the environment (ALL_PROXY or HTTP_PROXY)"
        if check_proxy(proxy, source).startswith("socks") and importlib.util.find_spec("socksio") is None:
            raise ValueError(f"{source}: a SOCKS proxy needs pip install 'httpx[socks]'; or set another proxy")

    def proxy_for(self, url: str) -> str | None:
        """The proxy that the server at `url` is reached through, credentials included."""
        if self.client is not None or not isinstance(self.transport, str) or url == EMBEDDED_URL:
            return None
        if self.proxy is not None:
            return str(self.proxy.url if isinstance(self.proxy, httpx.Proxy) else self.proxy)
        return environment_proxy(url) if self.trust_env else None

    def _needs_socks(self, url: str) -> bool:
        return (self.proxy_for(url) or "").lower().startswith("socks")

    def _over_aiohttp(self, url: str) -> bool:
        return self.transport == "aiohttp" and not self._needs_socks(url)

    def to_import(self, url: str) -> str | None:
        """The module that `make_client` has yet to import for that address, which takes long."""
        if self.client is not None or not isinstance(self.transport, str):
            return None
        needed = _EMBEDDED if url == EMBEDDED_URL else _AIOHTTP if self._over_aiohttp(url) else "httpcore"
        return None if needed in sys.modules else needed

    def unfit_for_pickling(self) -> str | None:
        """What cannot be pickled because it is secret or bound to this process; None if everything can."""
        if self.client is not None:
            return "an http_client"
        if not isinstance(self.transport, str):
            return "a custom transport"
        if isinstance(self.verify, ssl.SSLContext):
            return "an SSLContext"
        if isinstance(self.cert, tuple) and len(self.cert) == 3:
            return "a key's passphrase in cert"
        if isinstance(self.proxy, httpx.Proxy) or (self.proxy is not None and httpx.URL(self.proxy).userinfo):
            return "a proxy's password"
        return None

    def make_client(self, url: str) -> httpx.AsyncClient:
        """A new client for the server at `url`."""
        if self.client is not None:
            return self.client
        if isinstance(self.transport, httpx.AsyncBaseTransport):
            return httpx.AsyncClient(transport=_Shared(self.transport), trust_env=False)
        if url == EMBEDDED_URL:
            from namel3ss_ollama.embedded import EmbeddedTransport

            return httpx.AsyncClient(transport=EmbeddedTransport(), trust_env=False)
        proxy = self.proxy if self.proxy is not None else self.proxy_for(url)
        verify = self.verify
        if verify is True and self.cert is None:
            # Loading the CA bundle takes tens of milliseconds.
            needed = proxy is not None or not url.startswith("http://")
            verify = httpx.create_ssl_context(trust_env=self.trust_env) if needed else _tls_that_trusts_nobody()
        options: dict[str, Any] = {
            "verify": verify,
            "cert": self.cert,
            "proxy": proxy,
            "trust_env": False,  # otherwise httpx would read the environment's proxies in its own way
            "limits": _UNLIMITED,
        }
        if not self._over_aiohttp(url):
            return _HttpxClient(**options)
        from namel3ss_ollama.aiohttp_transport import AiohttpClient

        return AiohttpClient(**options)


def _not_ours(given: object, wanted: str) -> str:
    kind = type(given)
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__} is not an httpx.{wanted}"


@functools.cache
def _tls_that_trusts_nobody() -> ssl.SSLContext:
    """An SSL context for plain-HTTP clients."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _HttpxClient(httpx.AsyncClient):
    """Plain httpx that can be closed without waiting."""

    def abort(self) -> None:
        """Close without waiting; works after the event loop was closed, too."""
        self._state = ClientState.CLOSED
        for transport in (self._transport, *self._mounts.values()):
            for connection in list(getattr(getattr(transport, "_pool", None), "connections", ())):
                _abort_connection(connection)


def _abort_connection(connection: object) -> None:
    """Close the asyncio transport under a connection of httpcore, as far as it can be found."""
    while (inner := getattr(connection, "_connection", None)) is not None:
        connection = inner
    stream = getattr(getattr(connection, "_network_stream", None), "_stream", None)
    transport = getattr(getattr(stream, "transport_stream", stream), "_transport", None)
    if isinstance(transport, asyncio.Transport):
        with contextlib.suppress(RuntimeError):  # of a closed loop
            transport.abort()
        bare = bare_transport(transport)
        loop = getattr(bare, "_loop", None)  # typeshed does not know it; None once it is closed
        if bare is not None and loop is not None and loop.is_closed():
            close_socket(bare)


class _Shared(httpx.AsyncBaseTransport):
    """The user's transport, which outlives the clients that use it."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)
