"""The synchronous side: the same coroutines, driven on one background event loop.

One loop in one daemon thread serves the process, so that synchronous calls work in scripts, in any thread, and in a
notebook whose own loop is already running. It is created at the first synchronous call, recreated in a child after a
fork, and closed with everything open on it before the interpreter exits. A coroutine runs in the caller's context
(contextvars), so that traces nest correctly.

A token costs no thread hop: `SyncStream` fetches all chunks that have arrived in one. Finalizers never wait.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any, Generic, TypeVar

from namel3ss_ollama.forks import renewed_after_fork
from namel3ss_ollama.greenlets import Joinable, allocate_lock, make_signal, new_event_loop, patched_by, start_thread
from namel3ss_ollama.stream import Stream
from namel3ss_ollama.types import LLMResponse, StreamChunk, Usage

__all__ = ["SyncStream", "run"]

T = TypeVar("T")
_LONGEST_SHUTDOWN = 5.0


class _Background:
    """The background loop and its thread."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Joinable | None = None
        self._patched = patched_by()
        self.exiting = False

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop, created if there is none yet.

        Raises:
            RuntimeError: The interpreter is shutting down.
        """
        with self._lock:
            if self.exiting:
                raise RuntimeError("the interpreter is shutting down: no more calls")
            # A loop from before gevent or eventlet patched believes to be in another thread: it is left idle.
            patched = patched_by()
            if self._loop is None or self._loop.is_closed() or self._patched != patched:
                loop = new_event_loop()
                try:
                    thread = start_thread(_serve, loop, name="namel3ss-ollama-sync")
                except RuntimeError:  # the main thread has ended, after which Python 3.12 and newer start no threads
                    loop.close()
                    raise
                self._loop, self._thread, self._patched = loop, thread, patched
            return self._loop

    def after_fork(self) -> None:
        """In a child: the thread is gone, and the lock may have been held by a thread that is gone, too."""
        self.__init__()  # type: ignore[misc] # on purpose: everything is recreated

    def shut_down(self) -> None:
        """Close everything before the interpreter tears down modules, when nothing could run any more."""
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
        loop.run_until_complete(_end_all(asyncio.all_tasks(loop)))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _end_all(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_background = _Background()
atexit.register(_background.shut_down)
renewed_after_fork(_background)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine and return its result; interrupting the wait (Ctrl-C) cancels it.

    Raises:
        RuntimeError: Called on the background loop itself, where it would deadlock.
        Exception: Whatever the coroutine raises.
    """
    try:
        loop = _background.loop()
        if _running_loop() is loop:
            raise RuntimeError("synchronous calls deadlock on the background loop; await the async method instead")
    except RuntimeError:
        coroutine.close()
        raise
    call = _Call(coroutine)
    loop.call_soon_threadsafe(call.begin)
    try:
        call.ended.wait()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and cancelled everything on it
            loop.call_soon_threadsafe(call.cancel)
        raise
    return call.result()


class _Call(Generic[T]):
    """A coroutine on the background loop, and the signal that its caller waits for."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        self.ended = make_signal()

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._coroutine)
        self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # asyncio would log it if the caller no longer waits
        self.ended.set()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def result(self) -> T:
        task, self._task = self._task, None
        assert task is not None
        if task.cancelled():  # by interpreter shutdown
            raise concurrent.futures.CancelledError
        return task.result()


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
        self._marked_for: int | None = None
        self._cancelled = False

    def __iter__(self) -> Iterator[StreamChunk]:
        # As with `Stream`: only the loop holds this object, and leaving the loop closes the stream.
        return self if self._stream.claim("by a loop") == "by hand" else _Iteration(self, self._stream)

    def __next__(self) -> StreamChunk:
        """The next chunk, for stepping by hand."""
        self._stream.claim("by hand")
        return self.step()

    def step(self) -> StreamChunk:
        """The next chunk.

        Raises:
            StopIteration: There is none.
            LLMError: As the iteration of `Stream`.
        """
        stream = self._stream
        try:
            if not self._cancelled and (stream.ready or self._fill()):
                return stream.take()
        except IndexError:  # cancelled by another thread just now
            pass
        if self._cancelled:
            self.close()
        raise StopIteration

    def _fill(self) -> bool:
        try:
            filled = run(self._stream.fill())
        except BaseException as error:
            if not isinstance(error, Exception):  # an interrupt: if `fill` had not begun, it closed no stream
                self.cancel()
            raise
        if self._marked_for != self._stream.resumed:  # a slot of another host
            self._marked_for = self._stream.resumed
            self._stream.mark()  # `fill` ran in its own context
        return filled

    def __enter__(self) -> SyncStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cancel(self) -> None:
        """End the stream, from any thread: the connection closes, the iteration ends."""
        self._cancelled = True
        self._stream.ready.clear()
        if not _background.exiting:  # at exit the loop closes everything itself
            _background.loop().call_soon_threadsafe(self._stream.cancel)

    def close(self) -> None:
        """End the stream and wait until its connection is closed."""
        self._cancelled = True
        if not _background.exiting:  # as in `cancel`
            run(self._stream.aclose())

    @property
    def text(self) -> str:
        """The text handed out so far."""
        return self._stream.text

    @property
    def usage(self) -> Usage | None:
        """Tokens used; None until the model is done."""
        return self._stream.usage

    @property
    def resumed(self) -> int:
        """How often another host resumed it, as `Stream.resumed`."""
        return self._stream.resumed

    @property
    def partial(self) -> LLMResponse:
        """The part handed out so far, as a response."""
        return self._stream.partial

    @property
    def response(self) -> LLMResponse | None:
        """The complete answer; None until the model is done."""
        return self._stream.response

    @property
    def end(self) -> str | None:
        """How the stream ended, as `Stream.end`; None while it is open."""
        return self._stream.end


class _Iteration:
    """Held by a `for` loop only; leaving the loop drops it, which closes the stream."""

    __slots__ = ("_stream", "_sync")

    def __init__(self, sync: SyncStream, stream: Stream) -> None:
        self._sync = sync
        self._stream = stream

    def __iter__(self) -> _Iteration:
        return self

    def __next__(self) -> StreamChunk:
        stream = self._stream
        return stream.take() if stream.ready else self._sync.step()

    def __del__(self) -> None:
        self._stream.drop()
