"""httpx over aiohttp, by httpx-aiohttp, with a few things changed.

When a connection breaks, aiohttp's reader raises at once and keeps what had arrived but was not read yet to itself;
here that comes first, so that no text is lost to an unlucky moment. A session holds no cookies and no bound of its own
on connections: how many there are is the limiter's business. And a request goes straight to the transport: what httpx
does around that costs a fifth of a short answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport, HttpxAiohttpClient
from httpx_aiohttp.transport import map_aiohttp_exceptions

__all__ = ["AiohttpClient"]


class AiohttpClient(HttpxAiohttpClient):
    """An `httpx.AsyncClient` over aiohttp."""

    # What httpx calls these with is passed on, whatever it is; hence the looser signatures.
    def _init_transport(self, **options: Any) -> httpx.AsyncBaseTransport:  # type: ignore[override] # see above
        return _Transport(**options)

    def _init_proxy_transport(  # type: ignore[override] # see above
        self, proxy: httpx.Proxy, **options: Any
    ) -> httpx.AsyncBaseTransport:
        return _Transport(proxy=proxy, **options)

    async def send(self, request: httpx.Request, **_: Any) -> httpx.Response:
        """Send without httpx's rounds of authentication, redirects and cookies, of which there are none here."""
        if self.is_closed:
            raise RuntimeError("the client is closed")
        response = await self._transport_for_url(request.url).handle_async_request(request)
        response.request = request
        return response


class _Transport(AiohttpTransport):
    def get_client(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0, ssl=self.ssl_context, keepalive_timeout=self.limits.keepalive_expiry or 30.0
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        response.stream = _Stream(response.stream)
        return response


class _Stream(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._content: aiohttp.StreamReader = stream._aiohttp_response.content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._content
        with map_aiohttp_exceptions():
            try:
                async for data in content.iter_any():
                    yield data
            except aiohttp.ClientError as error:
                content.set_exception(None)  # type: ignore[arg-type] # or it is raised again before what is left
                if rest := content.read_nowait():
                    yield rest
                raise error

    async def aclose(self) -> None:
        await self._stream.aclose()
