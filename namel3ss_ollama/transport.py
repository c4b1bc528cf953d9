"""The HTTP clients below: one for each event loop, made when first needed, closed with its loop.

The address `embedded://` means the engine in this process (`embedded/`), a transport of its own. Else the default is
httpx over aiohttp (`aiohttp_transport.py`), which costs a third of plain httpx a streamed token and does
not collapse under many streams; `transport="httpx"` takes plain httpx, and any `httpx.AsyncBaseTransport` or a whole
`httpx.AsyncClient` can be handed in instead.

A connection belongs to the event loop that made it. So that a provider works across several `asyncio.run`, from
threads and in tests, clients are kept by loop. And so that nothing is left open when a loop ends without the
provider having been closed, each client is tied to an async generator: the loop closes those before it ends
(`loop.shutdown_asyncgens`, which `asyncio.run` calls), and the client with it.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import ssl
import sys
import weakref
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from namel3ss_ollama.address import EMBEDDED_URL
from namel3ss_ollama.forks import renewed_after_fork

__all__ = ["HTTPSettings", "PerLoopClients"]

TransportChoice = Literal["aiohttp", "httpx"] | httpx.AsyncBaseTransport
_AIOHTTP = "namel3ss_ollama.aiohttp_transport"
_EMBEDDED = "namel3ss_ollama.embedded"
_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
_UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=30.0)


@dataclass(frozen=True, slots=True)
class HTTPSettings:
    """How connections are made; the names and meanings are httpx's.

    Attributes:
        transport: "aiohttp" (the default, fast), "httpx", or a transport of one's own.
        client: A client of one's own, used as it is on every loop and never closed here.
        verify: TLS verification: True, False, a CA bundle's path or an `ssl.SSLContext`.
        cert: A client certificate.
        proxy: The proxy's URL; when None, the environment's proxies count if `trust_env`.
        trust_env: Whether HTTP_PROXY and the like count.
    """

    transport: TransportChoice = "aiohttp"
    client: httpx.AsyncClient | None = None
    verify: ssl.SSLContext | str | bool = True
    cert: str | tuple[str, str] | tuple[str, str, str] | None = None
    proxy: str | httpx.URL | httpx.Proxy | None = field(default=None, repr=False)
    trust_env: bool = True

    def to_import(self, url: str) -> str | None:
        """What `make_client` has still to import for that address: aiohttp takes longer than all the rest together."""
        needed = _EMBEDDED if url == EMBEDDED_URL else _AIOHTTP if self.transport == "aiohttp" else None
        return needed if self.client is None and needed not in sys.modules else None

    def unfit_for_pickling(self) -> str | None:
        """What of this has no place in a pickle, since it is secret or bound to this process; None if nothing has."""
        if self.client is not None:
            return "an http_client"
        if not isinstance(self.transport, str):
            return "a transport of one's own"
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
        verify = self.verify
        if verify is True and url.startswith("http://") and self.cert is None and not self._may_need_tls_for_a_proxy():
            verify = _tls_that_trusts_nobody()
        options: dict[str, Any] = {
            "verify": verify,
            "cert": self.cert,
            "proxy": self.proxy,
            "trust_env": self.trust_env,
            "limits": _UNLIMITED,
        }
        if self.transport == "httpx":
            return httpx.AsyncClient(**options)
        from namel3ss_ollama.aiohttp_transport import AiohttpClient

        return AiohttpClient(**options)

    def _may_need_tls_for_a_proxy(self) -> bool:
        if self.proxy is not None:
            return True
        return self.trust_env and any(os.environ.get(name, "").lower().startswith("https:") for name in _PROXIES)


@functools.cache
def _tls_that_trusts_nobody() -> ssl.SSLContext:
    """What a client gets that has no use for TLS: one with its certificates takes tens of milliseconds to make."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _Shared(httpx.AsyncBaseTransport):
    """A transport of the user's, which outlives the clients made on it."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)


class PerLoopClients:
    """One client an event loop, made by `make`.

    Who drops this without closing it leaves nothing open either: each client is then closed on its loop.

    Args:
        make: Makes a client.
        to_import: What has to be imported before; it is in a thread, since it would block the event loop.
        owned: Whether clients are closed here.
    """

    def __init__(
        self, make: Callable[[], httpx.AsyncClient], to_import: Callable[[], str | None], *, owned: bool = True
    ) -> None:
        self._make = make
        self._to_import = to_import
        self._owned = owned
        self._closing: set[asyncio.Task[None]] = set()
        self._hold_nothing()
        renewed_after_fork(self)

    def _hold_nothing(self) -> None:
        self._held: _Held = {}
        # The finalizer holds the clients, so that they are not garbage themselves when this is: they would complain.
        self._finalizer = weakref.finalize(self, _abandon, self._held)
        self._finalizer.atexit = False

    def after_fork(self) -> None:
        """The clients are the parent's, and so are their loops: no thread here would ever close one."""
        self._finalizer.detach()
        _inherited.append(self._held)
        self._hold_nothing()

    async def get(self) -> httpx.AsyncClient:
        """The running loop's client."""
        loop = asyncio.get_running_loop()
        if (client := self._open(loop)) is not None:
            return client
        if (module := self._to_import()) is not None:
            try:
                await asyncio.to_thread(importlib.import_module, module)
            except RuntimeError:
                pass  # the main thread has ended: no more threads, and nobody whom importing it here would hurt
            if (client := self._open(loop)) is not None:  # another task was quicker
                return client
        for other in [other for other in list(self._held) if other.is_closed()]:
            self._held.pop(other, None)
        client = self._make()
        guard = _close_with_loop(client, self._owned, self._held)
        self._held[loop] = (client, guard)
        await guard.__anext__()
        return client

    def _open(self, loop: asyncio.AbstractEventLoop) -> httpx.AsyncClient | None:
        held = self._held.get(loop)
        return held[0] if held is not None and not held[0].is_closed else None

    async def aclose(self) -> None:
        """Close every loop's client, each on its loop; a later `get` makes a new one."""
        here = asyncio.get_running_loop()
        for loop, guard in _detach(self._held):
            if loop is here:
                await guard.aclose()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_aclose(guard), loop))

    def close(self) -> None:
        """As `aclose`, from synchronous code; inside a running loop that loop's client is closed when it goes on."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for loop, guard in _detach(self._held):
            if loop is here:
                task = loop.create_task(_aclose(guard))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(_aclose(guard), loop).result()

    def __len__(self) -> int:
        return len(self._held)


_Guard = AsyncGenerator[None, None]
_Held = dict[asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, _Guard]]
"""Each step on it is one operation of a dict, which threads cannot tear apart."""

_inherited: list[_Held] = []
"""What a forked child never uses nor closes: garbage would complain, or close what is the parent's."""


async def _close_with_loop(client: httpx.AsyncClient, owned: bool, held: _Held) -> _Guard:
    loop = asyncio.get_running_loop()
    try:
        yield
    finally:
        if held.get(loop, (None,))[0] is client:
            del held[loop]
        if owned:
            await client.aclose()


def _detach(held: _Held) -> list[tuple[asyncio.AbstractEventLoop, _Guard]]:
    detached: list[tuple[asyncio.AbstractEventLoop, _Guard]] = []
    while held:
        loop, (_, guard) = held.popitem()
        detached.append((loop, guard))
    return detached


def _abandon(held: _Held) -> None:
    for loop, guard in _detach(held):
        try:
            loop.call_soon_threadsafe(_close_soon, loop, guard)
        except RuntimeError:  # the loop is closed, and was closed without closing what it ran
            pass


_abandoned: set[asyncio.Task[None]] = set()


def _close_soon(loop: asyncio.AbstractEventLoop, guard: _Guard) -> None:
    task = loop.create_task(_aclose(guard))
    _abandoned.add(task)
    task.add_done_callback(_abandoned.discard)


async def _aclose(guard: _Guard) -> None:
    await guard.aclose()
