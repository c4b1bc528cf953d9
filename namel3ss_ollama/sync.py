"""The synchronous side: the same coroutines, driven on one background event loop.

One loop in one daemon thread serves the whole process, so that synchronous calls work in scripts, in any thread,
and in a notebook whose own loop is running already. It is made at the first synchronous call, made anew in a child
after a fork, and closed with all that is open on it before the interpreter exits. A coroutine runs in the caller's
context (contextvars), so that traces nest as they should.

A token costs no thread hop: `SyncStream` fetches all chunks that have arrived with one.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, TypeVar

from namel3ss_ollama.forks import renewed_after_fork
from namel3ss_ollama.generation import Stream
from namel3ss_ollama.types import LLMResponse, StreamChunk, Usage

__all__ = ["SyncStream", "run"]

T = TypeVar("T")
_LONGEST_SHUTDOWN = 5.0


class _Background:
    """The loop that synchronous calls run on, and its thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.exiting = False

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop, made when there is none yet.

        Raises:
            RuntimeError: The interpreter is about to exit.
        """
        with self._lock:
            if self.exiting:
                raise RuntimeError("the interpreter is shutting down: no more calls")
            if self._loop is None or self._loop.is_closed():
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_serve, args=(loop,), name="namel3ss-ollama-sync", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the main thread has ended: Python 3.12 and newer start no more threads then
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop

    def after_fork(self) -> None:
        """In a child: the thread is gone, and the lock may have been held by another one that is gone too."""
        self.__init__()  # type: ignore[misc] # on purpose: everything anew

    def shut_down(self) -> None:
        """Close what is open before the interpreter tears modules down, when nothing would run any more."""
        with self._lock:
            self.exiting = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and not loop.is_closed():
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_LONGEST_SHUTDOWN)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


_background = _Background()
atexit.register(_background.shut_down)
renewed_after_fork(_background)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result; interrupting the wait (Ctrl-C) cancels it.

    Raises:
        RuntimeError: Called on the background loop itself, where waiting would never end.
        Exception: Whatever the coroutine raises.
    """
    try:
        loop = _background.loop()
        if _running_loop() is loop:
            raise RuntimeError(
                "a synchronous call inside an asynchronous one would wait for itself; use its async twin"
            )
    except RuntimeError:
        coroutine.close()
        raise
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()  # does nothing when the coroutine itself raised
        raise


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class SyncStream:
    """A `Stream` for synchronous code: a plain iterator of `StreamChunk`, with the same properties.

    Example:
        ```python
        for chunk in provider.stream("Count to three."):
            print(chunk.content, end="")
        ```
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._batches: AsyncGenerator[list[StreamChunk], None] | None = None
        self._turn = asyncio.Lock()  # one step at a time, also when a step is interrupted and closed at once
        self._cancelled = False

    def __iter__(self) -> Iterator[StreamChunk]:
        return self._chunks()

    def _chunks(self) -> Iterator[StreamChunk]:
        deliver = self._stream.deliver
        try:
            while batch := run(self._next()):
                for chunk in batch:
                    deliver(chunk)
                    yield chunk
                    if self._cancelled:
                        return
        finally:
            self.close()

    async def _next(self) -> list[StreamChunk]:
        async with self._turn:
            if self._batches is None:
                self._batches = self._closed_at_exit()
            return await anext(self._batches, [])

    async def _closed_at_exit(self) -> AsyncGenerator[list[StreamChunk], None]:
        """The batches, by a generator: the background loop closes those when it ends."""
        async with contextlib.aclosing(self._stream.batches()) as batches:
            async for batch in batches:
                yield batch

    async def _close(self) -> None:
        await self._stream.aclose()
        async with self._turn:
            if self._batches is not None:
                await self._batches.aclose()

    def __enter__(self) -> SyncStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cancel(self) -> None:
        """End the stream, from any thread: the connection closes, the iteration ends."""
        self._cancelled = True
        _background.loop().call_soon_threadsafe(self._stream.cancel)

    def close(self) -> None:
        """End the stream and wait until its connection is closed."""
        self._cancelled = True
        if not _background.exiting:  # at exit the loop closes all that is open by itself
            run(self._close())

    @property
    def text(self) -> str:
        """The text that was handed out so far."""
        return self._stream.text

    @property
    def usage(self) -> Usage | None:
        """Tokens used; None until the model is done."""
        return self._stream.usage

    @property
    def partial(self) -> LLMResponse:
        """What was handed out so far, as a response."""
        return self._stream.partial

    @property
    def response(self) -> LLMResponse | None:
        """The whole answer; None until the model is done."""
        return self._stream.response

    @property
    def end(self) -> str | None:
        """How the stream ended, as `Stream.end`; None while it has not."""
        return self._stream.end
