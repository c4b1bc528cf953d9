"""What holds for pooled connections, whichever transport has them."""

from __future__ import annotations

import contextlib
from asyncio import BaseTransport
from collections.abc import Callable

import httpx

__all__ = ["KEEPALIVE_SECONDS", "MAX_IDLE_CONNECTIONS", "StaleConnectionError", "close_socket"]

MAX_IDLE_CONNECTIONS = 100
KEEPALIVE_SECONDS = 30.0


class StaleConnectionError(httpx.RemoteProtocolError):
    """A pooled connection was closed by the server before it answered anything: sending again is safe."""


def close_socket(transport: BaseTransport | None) -> None:
    """Close a transport whose event loop is closed and so can't do it, as asyncio would."""
    lose: Callable[[Exception | None], None] | None = getattr(transport, "_call_connection_lost", None)
    if transport is None or lose is None or getattr(transport, "_sock", None) is None:
        return
    with contextlib.suppress(RuntimeError):
        transport.close()
    with contextlib.suppress(RuntimeError):  # whoever waited on that loop cannot be woken
        lose(None)
