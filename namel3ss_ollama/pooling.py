"""What holds for pooled connections, whichever transport has them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import httpx

__all__ = [
    "KEEPALIVE_SECONDS",
    "MAX_IDLE_CONNECTIONS",
    "ReadableBody",
    "StaleConnectionError",
    "bare_transport",
    "close_socket",
]

MAX_IDLE_CONNECTIONS = 100
KEEPALIVE_SECONDS = 30.0


class StaleConnectionError(httpx.RemoteProtocolError):
    """A pooled connection was closed by the server before it answered anything: sending again is safe."""


class ReadableBody(httpx.AsyncByteStream):
    """A response's body that can be read without an iterator, and closed without the event loop."""

    async def read(self) -> bytes:
        """What has arrived, at least a byte; nothing at the end of the body."""
        raise NotImplementedError  # each transport has its own; httpx's base is no ABC

    def abort(self) -> None:
        """Close at once; before the end of the body that closes the connection."""
        raise NotImplementedError  # each transport has its own; httpx's base is no ABC


def bare_transport(transport: object) -> asyncio.BaseTransport | None:
    """The transport of asyncio's own that has the socket, under TLS or not; None if it is another event loop's."""
    transport = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
    if isinstance(transport, asyncio.BaseTransport) and hasattr(transport, "_call_connection_lost"):
        return transport
    return None


def close_socket(transport: asyncio.BaseTransport) -> None:
    """Close a bare transport whose event loop is closed and so can't do it, as asyncio would."""
    if getattr(transport, "_sock", None) is None:
        return
    with contextlib.suppress(RuntimeError):
        transport.close()
    lose: Callable[[Exception | None], None] = getattr(transport, "_call_connection_lost")  # noqa: B009 -- typeshed
    with contextlib.suppress(RuntimeError):  # whoever waited on that loop cannot be woken
        lose(None)
