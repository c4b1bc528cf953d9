"""httpx over aiohttp, by httpx-aiohttp, with a few changes.

When a connection breaks, aiohttp's reader raises at once and drops what it had received but not yet returned; here
the received data is returned first, so that no text is lost. A session keeps no cookies and does not limit the number
of connections: that is the limiter's job. Requests go straight to the transport: httpx's own layers cost a fifth of a
short answer. aiohttp never resends a request: one that failed on a pooled connection raises `StaleConnectionError`, and
the client decides whether to send it again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import io
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from typing import Any, cast

import aiohttp
import httpx
from aiohttp.connector import Connection
from httpx._client import ClientState
from httpx_aiohttp import AiohttpTransport, HttpxAiohttpClient
from httpx_aiohttp.transport import map_aiohttp_exceptions

from namel3ss_ollama.pooling import (
    KEEPALIVE_SECONDS,
    MAX_IDLE_CONNECTIONS,
    ReadableBody,
    StaleConnectionError,
    bare_transport,
    close_socket,
)

__all__ = ["AiohttpClient"]

_LARGE_BODY = 1024 * 1024
"""Bodies of more bytes are handed to aiohttp as a file, which it writes in pieces."""
_LONGEST_HEADER = 64 * 1024
"""Bytes in a header. Some gateways send more than aiohttp's default of 8 KiB, in cookies and policies."""
_FEW = 256
"""How many parsed addresses and timeouts are cached."""
_connecting: ContextVar[list[bool]] = ContextVar("namel3ss_ollama_connecting")
"""Filled when this task's request opens a connection instead of taking one from the pool."""


class AiohttpClient(HttpxAiohttpClient):
    """An `httpx.AsyncClient` over aiohttp.

    Attributes:
        survives_cancellation: Whether cancelling a request several times leaves no connection open.
    """

    survives_cancellation = True

    # Whatever httpx passes is passed on; hence the looser signatures.
    def _init_transport(self, **options: Any) -> httpx.AsyncBaseTransport:  # type: ignore[override] # see above
        return _Transport(**options)

    def _init_proxy_transport(  # type: ignore[override] # see above
        self, proxy: httpx.Proxy, **options: Any
    ) -> httpx.AsyncBaseTransport:
        return _Transport(proxy=proxy, **options)

    def build_request(  # type: ignore[override] # only client.py calls it, always with these
        self,
        method: str,
        url: str,
        *,
        content: bytes | AsyncIterator[bytes] | None,
        headers: Mapping[str, str],
        timeout: httpx.Timeout,
    ) -> httpx.Request:
        """A request, built without merging parameters, cookies and base URLs: this client has none."""
        extensions = {"timeout": timeout.as_dict()}
        return httpx.Request(method, _parsed(url), headers=headers, content=content, extensions=extensions)

    async def send(self, request: httpx.Request, **_: Any) -> httpx.Response:
        """Send without httpx's handling of authentication, redirects and cookies: this client uses none."""
        if self.is_closed:
            raise RuntimeError("the client is closed")
        response = await self._transport_for_url(request.url).handle_async_request(request)
        response.request = request
        return response

    def abort(self) -> None:
        """Close without waiting; works after the event loop was closed, too."""
        self._state = ClientState.CLOSED
        for transport in (self._transport, *self._mounts.values()):
            if isinstance(transport, _Transport):
                transport.abort()


class _Transport(AiohttpTransport):
    def get_client(self) -> aiohttp.ClientSession:
        connector = _Connector(limit=0, ssl=self.ssl_context, keepalive_timeout=KEEPALIVE_SECONDS)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=_LONGEST_HEADER,
            max_field_size=_LONGEST_HEADER,
        )
        session._retry_connection = False
        return session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        connect = request.extensions.get("timeout", {}).get("connect")
        headers, proxy_headers = _headers(request, self.proxy)
        connecting: list[bool] = []
        _connecting.set(connecting)  # not reset: a coroutine being destroyed runs in another context
        try:
            with map_aiohttp_exceptions():
                response = await self.client.request(
                    request.method,
                    str(request.url),
                    headers=headers,
                    data=_body(request),
                    allow_redirects=False,
                    auto_decompress=False,
                    timeout=_timeout(connect),
                    server_hostname=request.extensions.get("sni_hostname"),
                    proxy=str(self.proxy.url) if self.proxy else None,
                    proxy_headers=proxy_headers,
                )
        except httpx.TransportError as error:
            if connecting or not isinstance(error.__cause__, _BROKEN):
                raise
            raise StaleConnectionError("the server had closed the pooled connection") from error.__cause__
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Stream(response, cast("_Connector", self.client.connector)),
            request=request,
        )

    def abort(self) -> None:
        """Close all connections without the event loop."""
        if isinstance(self.client, aiohttp.ClientSession) and isinstance(self.client.connector, _Connector):
            self.client.connector.abort()


@functools.lru_cache(_FEW)
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


@functools.lru_cache(_FEW)
def _timeout(connect: float | None) -> aiohttp.ClientTimeout:
    # `connect` includes the look-up of the host's address, `sock_connect` does not.
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect)


_BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


def _headers(request: httpx.Request, proxy: httpx.Proxy | None) -> tuple[httpx.Headers, httpx.Headers | None]:
    """The headers for the server and for the proxy; without a tunnel the proxy gets the server's headers, too."""
    if proxy is None:
        return request.headers, None
    if proxy.raw_auth is None:
        return request.headers, proxy.headers
    login = {"proxy-authorization": "Basic " + base64.b64encode(b":".join(proxy.raw_auth)).decode("ascii")}
    if request.url.scheme == "https":
        return request.headers, httpx.Headers({**proxy.headers, **login})
    return httpx.Headers({**request.headers, **login}), proxy.headers


def _body(request: httpx.Request) -> Any:
    try:
        content = request.content
    except httpx.RequestNotRead:
        request.headers.pop("transfer-encoding", None)  # aiohttp's own business
        return request.stream
    if len(content) > _LARGE_BODY:
        return io.BytesIO(content)
    return content or None


class _Connection(Connection):
    """A request's hold on a connection, closed without a warning when it is dropped."""

    def __del__(self, _warnings: Any = None) -> None:
        with contextlib.suppress(RuntimeError):  # of a closed event loop
            self.close()


class _Connector(aiohttp.TCPConnector):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._closing: set[asyncio.BaseTransport] = set()

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        connection.__class__ = _Connection
        return connection

    async def _create_connection(self, *args: Any) -> Any:
        _connecting.get([]).append(True)
        return await super()._create_connection(*args)

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        if self.is_stranded:  # called by a finalizer
            self.keep(protocol)
            self.abort()
            return None
        # aiohttp bounds how many connections there are, not how many of them are idle.
        crowded = len(self._conns.get(key, ())) >= MAX_IDLE_CONNECTIONS
        return super()._release(key, protocol, should_close=should_close or crowded)

    @property
    def is_stranded(self) -> bool:
        """Whether the event loop was closed before the connections were."""
        return self._loop.is_closed()

    def keep(self, connection: Any) -> None:
        """Keep the transport of a connection that aiohttp is about to forget, until the event loop has closed it."""
        transport = bare_transport(getattr(connection, "transport", None))
        if transport is not None:
            self._closing.add(transport)
            if not self.is_stranded:
                self._loop.call_soon(self._loop.call_soon, self._closing.discard, transport)

    def abort(self) -> None:
        """Close all connections without waiting; may be called again if the event loop was closed before it did so."""
        for pool in self._conns.values():
            for protocol, _ in pool:
                self.keep(protocol)
        for protocol in self._acquired:
            self.keep(protocol)
        self._close()
        if self.is_stranded:
            while self._closing:
                close_socket(self._closing.pop())


class _Stream(ReadableBody):
    """A response's body; `read` avoids the cost of an iterator for each read."""

    def __init__(self, response: aiohttp.ClientResponse, connector: _Connector) -> None:
        self._response = response
        self._content = response.content
        self._connector = connector

    async def read(self) -> bytes:
        try:
            return await self._content.readany()
        except aiohttp.ClientError as error:
            self._content.set_exception(None)  # type: ignore[arg-type] # or it is raised again before what is left
            rest = self._content.read_nowait()
            self._content.set_exception(error)
            if rest:
                return rest
            with map_aiohttp_exceptions():
                raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def aclose(self) -> None:
        self.abort()
        await self._response.wait_for_close()

    def abort(self) -> None:
        if self._connector.is_stranded:
            self._connector.abort()
        elif self._response.connection is not None:
            self._connector.keep(self._response.connection)
        self._response.release()
