"""A TCP server on asyncio streams, for responses that `OllamaServer` does not send; it closes all connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from namel3ss_ollama.testing.server import close_listener

__all__ = ["plain_server"]

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def plain_server(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[asyncio.Server]:
    """A server that calls `serve` for each connection, in a task.

    At the end it cancels the tasks and aborts open connections. asyncio's own server does neither, so a connection that
    a client opened at the last moment would be left to the garbage collector, which would fail a later test.
    """
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.append(writer)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the end of the test
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(tracked, "127.0.0.1", 0, ssl=tls)
    try:
        yield server
    finally:
        await close_listener(server)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)
