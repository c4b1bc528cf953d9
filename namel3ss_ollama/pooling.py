"""What holds for pooled connections, whichever transport has them."""

from __future__ import annotations

import httpx

__all__ = ["KEEPALIVE_SECONDS", "MAX_IDLE_CONNECTIONS", "StaleConnectionError"]

MAX_IDLE_CONNECTIONS = 100
KEEPALIVE_SECONDS = 30.0


class StaleConnectionError(httpx.RemoteProtocolError):
    """A pooled connection was closed by the server before it answered anything: sending again is safe."""
