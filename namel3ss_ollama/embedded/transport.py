"""The engine as an httpx transport, so that nothing above the HTTP client depends on it.

A request runs in its own thread. The thread passes its output to the event loop's queue; the first object decides the
status, as with a server, which also sends its headers with the first token. Closing the response, or cancelling the
wait for it, stops the computation at the next token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson

from namel3ss_ollama.embedded.api import handler_of, is_path
from namel3ss_ollama.embedded.engine import SHUT_DOWN, Cancelled, Engine, Job, shared_engine
from namel3ss_ollama.embedded.framing import Framing, framing, streams
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.work import Handler, Json, Work
from namel3ss_ollama.greenlets import start_thread

__all__ = ["EmbeddedTransport"]

_LONGEST_KEEP = 24 * 3600.0


class EmbeddedTransport(httpx.AsyncBaseTransport):
    """Implements Ollama's API in this process; `base_url="embedded://"` makes a provider use it.

    It works with any `httpx.AsyncClient(transport=EmbeddedTransport())`; the host in the URL does not matter.

    Args:
        engine: The engine; the process's shared one by default.
    """

    def __init__(self, engine: Engine | None = None) -> None:
        self._given = engine
        self._engine: Engine | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        path = request.url.path
        if path == "/":
            return httpx.Response(200, text="Ollama is running")
        handler = handler_of(request.method, path)
        if handler is None:
            if is_path(path):
                return httpx.Response(405, text="405 method not allowed")
            return httpx.Response(404, text="404 page not found")
        frame = framing(path)
        try:
            body = _body(await request.aread())
            engine = self._leased()
        except Refused as refused:
            return _whole(refused.status, frame.error(refused))
        running = _Running(engine, handler, body, self._look_after)
        try:
            first = await running.next()
        except Refused as refused:
            return _whole(refused.status, frame.error(refused))
        except BaseException:
            running.cancel()
            raise
        if streams(path, body):
            headers = {"content-type": frame.content_type}
            return httpx.Response(200, headers=headers, stream=_Body(running, first, frame))
        return _whole(200, first)

    async def aclose(self) -> None:
        """Release the engine; the last user's release unloads the models."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._engine is not None:
            engine, self._engine = self._engine, None
            try:
                await asyncio.to_thread(engine.release)
            except RuntimeError:
                engine.release()  # the interpreter is exiting: no new threads, and blocking is harmless

    def _leased(self) -> Engine:
        if self._engine is None:
            self._engine = self._given or shared_engine()
            self._engine.lease()
        return self._engine

    def _look_after(self) -> None:
        """Unload models when they expire."""
        if self._engine is None:
            return
        times = [one.expires for one in self._engine.running() if one.expires is not None and not one.active]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if times:
            loop = asyncio.get_running_loop()
            wait = min(max(min(times) - time.time(), 0.0), _LONGEST_KEEP)
            self._timer = loop.call_later(wait + 0.1, self._look_after)


class _Running:
    """A handler running in its thread, as seen from the event loop, which is notified of its end."""

    def __init__(self, engine: Engine, handler: Handler, body: Json, ended: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Json | BaseException | None] = asyncio.Queue()
        self._job = Job(engine)
        self._work = Work(engine, self._job, body, self._put)
        self._handler = handler
        self._ended = ended
        self._over = False
        self._failure: BaseException | None = None
        start_thread(self._run, name="namel3ss-ollama-embedded")

    async def next(self) -> Json:
        """The first object.

        Raises:
            Refused: The handler refused, or the engine was shut down.
        """
        event = await self._queue.get()
        if event is None:
            raise Refused(500, SHUT_DOWN)
        if isinstance(event, BaseException):
            raise event
        return event

    async def lines(self) -> list[Json | Refused]:
        """The objects that have arrived since, at least one; none at the end. A refusal is the last one."""
        lines: list[Json | Refused] = []
        while not self._over and not (lines and self._queue.empty()):
            event = await self._queue.get()
            if isinstance(event, (dict, Refused)):
                lines.append(event)
            else:
                self._over, self._failure = True, event
        if self._failure is not None and not lines:  # objects that have arrived go first
            raise self._failure
        return lines

    def cancel(self) -> None:
        """Cancel the job."""
        self._job.cancel()

    def _run(self) -> None:
        try:
            self._handler(self._work)
        except Cancelled:
            pass
        except Refused as refused:
            # Without its traceback, whose frames would keep the model loaded as long as the refusal exists.
            self._put(Refused(refused.status, str(refused)))
        except OSError as error:  # an environment error, not a bug: a deleted file, a full disk
            self._put(Refused(500, str(error)))
        except BaseException as error:  # raised in the event loop's thread, for the caller
            self._put(error)
        self._put(None)
        self._tell(self._ended)

    def _put(self, event: Json | BaseException | None) -> None:
        self._tell(self._queue.put_nowait, event)

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:  # the loop is closed: there is no caller left
            self._job.cancelled = True


class _Body(httpx.AsyncByteStream):
    def __init__(self, running: _Running, first: Json, frame: Framing) -> None:
        self._running = running
        self._first = first
        self._frame = frame

    async def __aiter__(self) -> AsyncIterator[bytes]:
        last: Json | Refused = self._first
        yield self._frame.written(last)
        while lines := await self._running.lines():
            last = lines[-1]
            yield b"".join(map(self._frame.written, lines))
        if self._frame.end and not isinstance(last, Refused):
            yield self._frame.end

    async def aclose(self) -> None:
        self._running.cancel()


def _body(data: bytes) -> Json:
    if not data:
        return {}
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the request is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refused(400, "the request is not a JSON object")
    return value


def _whole(status: int, value: Json) -> httpx.Response:
    return httpx.Response(status, headers={"content-type": "application/json"}, content=orjson.dumps(value))
