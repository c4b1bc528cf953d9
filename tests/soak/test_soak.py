"""A small soak and a killed server, on every run; `make soak` runs the large ones."""

from __future__ import annotations

import os
import sys

import pytest
from soak import kill_under_load, soak

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory and sockets are counted in /proc")


# Connections that plain httpx leaves open on an event loop closed by hand are garbage-collected with a warning.
WARNS = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize("transport", ["aiohttp", pytest.param("httpx", marks=WARNS)])
async def test_a_small_soak(transport: str) -> None:
    figures = await soak(600, 60, transport)
    assert figures.outcomes["healthy: answered"] > 300
    assert figures.outcomes["cancelled"] > 5
    assert figures.abandoned == 4
    assert figures.children == (4 if hasattr(os, "fork") else 0)
    assert figures.collections > 0
    assert len(figures.outcomes) > 15  # almost every fault occurred


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
async def test_a_killed_server(transport: str) -> None:
    await kill_under_load(40, transport, 0.3)
