"""The engine behind a loopback socket: any client of Ollama's API, in any language, can use it.

The HTTP is aiohttp's. Each request goes to the same transport that a provider in the process uses, so the answers
are the same, and a client's disconnect stops its computation.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from namel3ss_ollama.embedded.transport import EmbeddedTransport

__all__ = ["Served", "serving"]

_LONGEST_REQUEST = 256 * 1024 * 1024
_CLIENT_CLOSED = 499
"""The status that nginx logs for a client's disconnect."""


@dataclass(frozen=True, slots=True)
class Served:
    """A request that was answered or aborted.

    Attributes:
        method: The HTTP method.
        path: The path, without its query.
        status: The HTTP status; 499 if the client disconnected.
        seconds: The time from the request's headers to the end of its answer.
        remote: The client's address.
    """

    method: str
    path: str
    status: int
    seconds: float
    remote: str


@contextlib.asynccontextmanager
async def serving(
    port: int = 11434, host: str = "127.0.0.1", *, on_request: Callable[[Served], None] | None = None
) -> AsyncIterator[str]:
    """Serve while the block runs; yields the URL.

    Args:
        port: The port; 0 picks a free one.
        host: The address to listen on. There is no authentication: beyond loopback, anyone can use it.
        on_request: Called with each request when its answer has ended.

    Raises:
        OSError: The port is taken.
    """
    transport = EmbeddedTransport()
    reporting = [] if on_request is None else [_reporter(on_request)]
    application = web.Application(client_max_size=_LONGEST_REQUEST, middlewares=reporting)
    application.router.add_route("*", "/{path:.*}", _answerer(transport))

    runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound[1]}"
    finally:
        await runner.cleanup()
        await transport.aclose()


def _reporter(on_request: Callable[[Served], None]) -> Middleware:
    @web.middleware
    async def report(request: web.Request, handler: Handler) -> web.StreamResponse:
        start, status = time.perf_counter(), _CLIENT_CLOSED
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as refused:
            status = refused.status
            raise
        except Exception:
            status = 500
            raise
        finally:
            path = "".join(letter if letter.isprintable() else "?" for letter in request.path)
            on_request(Served(request.method, path, status, time.perf_counter() - start, request.remote or ""))
        return response

    return report


def _answerer(transport: EmbeddedTransport) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        method = "GET" if request.method == "HEAD" else request.method
        inner = httpx.Request(method, f"http://engine{request.path}", content=await request.read())
        response = await transport.handle_async_request(inner)
        headers = {"content-type": response.headers["content-type"]}
        if isinstance(response.stream, httpx.SyncByteStream):  # the answer is already complete
            return web.Response(body=response.content, status=response.status_code, headers=headers)
        out = web.StreamResponse(status=response.status_code, headers=headers)
        async with contextlib.aclosing(response):
            try:
                await out.prepare(request)
                async for data in response.aiter_raw():
                    await out.write(data)
                await out.write_eof()
            except ConnectionResetError:  # the client disconnected, noticed here before aiohttp did
                raise asyncio.CancelledError from None
        return out

    return answer
