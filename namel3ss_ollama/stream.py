"""A streamed answer: chunks are handed out one by one from what the last read completed.

`fill` does all the I/O: it sends the request at the first step, then reads and parses until there is a chunk to hand
out. `take` hands it out. `async for` calls both; `SyncStream` calls `fill` on the background loop and `take` in the
caller's thread, so that everything that arrived with one read costs one hop. Whatever ends a stream, `_close` closes
the connection and releases the slot, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal

from namel3ss_ollama.answers import Answer, ServerReportedError
from namel3ss_ollama.errors import LLMError, OutputValidationError
from namel3ss_ollama.exchange import Exchange
from namel3ss_ollama.generation import Runner, ended_early
from namel3ss_ollama.insisting import suited
from namel3ss_ollama.pool import HostTurn
from namel3ss_ollama.reasons import reason_in_line
from namel3ss_ollama.request import Request
from namel3ss_ollama.resume import Seam, breaks_off, never, tokens_at_least
from namel3ss_ollama.resuming import NotResumed
from namel3ss_ollama.streamer import WatchCancelled
from namel3ss_ollama.turn import Turn, outcome_of
from namel3ss_ollama.types import LLMResponse, StreamChunk, Usage

__all__ = ["Stream"]

End = Literal["done", "cancelled", "max_chunks", "error"]


class Stream:
    """A streamed answer: an async iterator of `StreamChunk`.

    The request is sent when iteration starts. The stream ends in one of four ways, reported by `end`: "done" (the model
    is done, `response` holds the answer), "max_chunks" (that limit), "cancelled" (`cancel()`, `aclose()`, leaving the
    loop, a cancelled task), or "error" (the iteration raises an `LLMError` that carries what had arrived).
    However it ends, the connection is released, the server stops generating and the slot is free.

    Example:
        ```python
        stream = provider.stream_chat([{"role": "user", "content": "Count to three."}])
        async for chunk in stream:
            print(chunk.content, end="")
        print(stream.usage)
        ```
    """

    def __init__(self, runner: Runner, request: Request | Callable[[], Request]) -> None:
        self._runner = runner
        self._context = runner.telemetry.context()  # by the first step the caller's span may be over
        self._make = None if isinstance(request, Request) else request  # reads files, so it runs in a thread
        if isinstance(request, Request):
            self._begin(request)
        else:
            self._answer = Answer("chat")
        self._taken = 0
        self._last: StreamChunk | None = None
        self._delivered = False  # by the time that the last chunk came
        self._broken: LLMError | ServerReportedError | None = None
        self._whole: Request | None = None  # with its prompt, if another host may resume it
        self._never = ""  # why none may
        self._seam: Seam | None = None
        self._turn: Turn | None = None
        self._exchange: Exchange | None = None
        self._closed = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._filling = False
        self._cancelled = False
        self._iterated: Literal["by hand", "by a loop"] | None = None
        self.ready: deque[StreamChunk] = deque()  # read, but not handed out yet
        self.end: End | None = None
        self.response: LLMResponse | None = None

    def _begin(self, request: Request) -> None:
        self._request = request
        self._answer = request.begin_answer()

    @property
    def text(self) -> str:
        """The text handed out so far."""
        return self._answer.text

    @property
    def usage(self) -> Usage | None:
        """Tokens used; None until the model is done."""
        return self.response.usage if self.response else None

    @property
    def host(self) -> str:
        """The address of the server; empty before the request is sent."""
        return self._turn.server.url if self._turn is not None and self._turn.call.slot_at is not None else ""

    @property
    def resumed(self) -> int:
        """How often the answer broke off and was resumed on another host (`Hosts(resume="auto")`)."""
        return len(self._turn.earlier) if self._turn is not None else 0

    @property
    def partial(self) -> LLMResponse:
        """The part handed out so far, as a response; `finish_reason` is None until the model is done."""
        if self.response is not None:
            return self.response
        partial = self._answer.response()
        partial.host = self.host
        return partial

    def __aiter__(self) -> Stream | _Iteration:
        # Only the loop holds this object: leaving the loop drops it, which closes the stream. (Except for a stream that
        # was stepped by hand before, which can still be stepped after the loop.)
        return self if self.claim("by a loop") == "by hand" else _Iteration(self)

    async def __anext__(self) -> StreamChunk:
        """The next chunk, for stepping by hand; `async for` is the usual way."""
        self.claim("by hand")
        if self.ready or await self.fill():
            return self.take()
        raise StopAsyncIteration

    def claim(self, how: Literal["by hand", "by a loop"]) -> str:
        """Start the iteration, or continue it by hand; returns how it was started.

        Raises:
            RuntimeError: The stream is or was iterated by a loop.
        """
        if self._iterated == "by a loop":
            raise RuntimeError("a stream can be iterated once; make another call for another answer")
        self._iterated = self._iterated or how
        return self._iterated

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._turn is None or self._turn.watch.loop.is_running():
            await self.aclose()
        else:  # the block is destroyed after its event loop
            self.drop()

    def __del__(self) -> None:
        self.drop()

    def drop(self) -> None:
        """The consumer is gone: make the event loop close the stream. For finalizers: never waits, takes no lock."""
        if self._turn is None or self._closed.is_set():
            return
        loop = self._turn.watch.loop
        if loop.is_running():
            with contextlib.suppress(RuntimeError):  # it was closed just now, with everything that it held
                loop.call_soon_threadsafe(self._let_go)
        else:
            if self._exchange is not None:
                self._exchange.abort()
            self._give_back(self._turn, GeneratorExit())

    def _let_go(self) -> None:
        """Close on the event loop, in a task only if necessary: a loop at its last step would leave that pending."""
        if self._filling or self._exchange is None or self._exchange.abort():
            self.cancel()
        elif self._turn is not None:
            self._turn.watch.loop.call_soon(self.cancel)

    def cancel(self) -> None:
        """End the stream, from any task of its event loop: the connection closes, the iteration ends."""
        self._cancelled = True
        self.ready.clear()
        if self._turn is None:
            self.end = "cancelled"
        elif not self._closed.is_set():
            self._turn.watch.cancel()
            if not self._filling and self._closing is None:
                # No reader waits that would close the stream, so close it here; at once if possible: this may be the
                # last step of a loop that is ending.
                if self._exchange is None or self._exchange.abort():
                    self._give_back(self._turn)
                else:
                    self.end = "cancelled"
                    self._closing = asyncio.ensure_future(self._close(self._turn))

    async def aclose(self) -> None:
        """End the stream and wait until its connection is closed."""
        self.cancel()
        if self._turn is not None:
            await self._closed.wait()

    def mark(self) -> None:
        """Mark requests that the current context (task, thread) makes from now on as nested in this stream."""
        if self._turn is not None and self._turn.slot is not None:
            self._turn.slot.mark()

    def take(self) -> StreamChunk:
        """Hand out the next chunk; from now on `text` and `partial` include it."""
        chunk = self.ready.popleft()
        self._taken += 1
        if chunk.response is None:  # the last chunk was counted in when the response was made
            self._answer.deliver(chunk)
        return chunk

    async def fill(self) -> bool:
        """Read until there are chunks to take; False at the end.

        Raises:
            LLMError: The answer broke off; `partial` holds what had arrived.
            RuntimeError: Another task is reading.
        """
        if self._filling:
            raise RuntimeError("another task is reading from this stream; a stream has one reader")
        if self.end is not None or self._cancelled:
            return False
        if self._make is not None and not await self._prepare(self._make):
            return False
        turn = self._turn = self._turn or self._runner.turn_of_stream(self._request, self._context)
        self._filling = True
        try:
            while True:
                try:
                    await self._step(turn)
                    break
                except OutputValidationError as error:
                    await self._begin_again(turn, error)
                except (LLMError, ServerReportedError) as error:
                    await self._go_on(turn, error)
                    if self.ready:
                        break
        except (LLMError, ServerReportedError) as error:
            self.end = "error"
            failure = self._runner.with_partial(error, self._answer, turn)
            await self._close(turn, failure)
            raise failure from error.__cause__
        except WatchCancelled as error:
            await self._close(turn, error)
        except GeneratorExit:  # a coroutine that is being destroyed cannot wait
            self.drop()
            raise
        except BaseException as error:
            self.end = "error" if isinstance(error, Exception) else "cancelled"
            await self._close(turn, error)
            raise
        finally:
            self._filling = False
        return bool(self.ready) and not self._cancelled

    async def _step(self, turn: Turn) -> None:
        """Read once, or finish."""
        if self._broken is not None:
            raise self._broken
        if self._last is not None:
            await self._finish(turn, self._last)
        elif self._exchange is None or turn.slot is None:
            self._accept(await self._open(turn), turn)
        else:
            turn.slot.idle_since = None
            self._accept(await self._exchange.lines(), turn)
        if self.end is not None:
            await self._close(turn)
        elif self._last is not None and not self.ready:
            await self._finish(turn, self._last)
        elif turn.slot is not None:
            turn.slot.idle_since = time.monotonic()

    async def _begin_again(self, turn: Turn, error: OutputValidationError) -> None:
        """Ask in another way, if no part of an answer in the wrong form was handed out.

        Raises:
            OutputValidationError: There is no other way.
        """
        self._runner.with_partial(error, self._answer, turn)
        delivered = self._answer.has_delivered() if self._last is None else self._delivered
        self._begin(self._runner.insist(self._request, error, turn, delivered=delivered))
        self._last = self._broken = None
        if self._exchange is not None:
            await self._exchange.aclose()
            self._exchange = None

    async def _prepare(self, make: Callable[[], Request]) -> bool:
        """Build the request in a thread; False if the stream was cancelled in the meantime."""
        self._make = None
        self._filling = True
        try:
            self._begin(await asyncio.to_thread(make))
        except BaseException:
            self.end = self.end or "error"
            raise
        finally:
            self._filling = False
        return not self._cancelled

    async def _open(self, turn: Turn) -> list[dict[str, Any]]:
        """Wait for a slot, send the request and read the first lines, with retries."""
        if turn.slot is None:
            await turn.open()
            self.mark()
            self._request = suited(self._request, turn.server.fitting)

        request = self._request
        lines = await self._ask(request, turn)
        if self._runner.resuming is not None:
            self._never = never(request)
            self._whole = None if self._never else replace(request, content=None)
        if not self._request.wants_json:  # which may be requested in another way
            self._request = self._request.without_content()
        return lines

    async def _ask(
        self, request: Request, turn: Turn, check: Callable[[], Awaitable[None]] | None = None
    ) -> list[dict[str, Any]]:
        """The first lines of the answer to a request, with retries, each attempt after a check."""

        async def attempt(request: Request) -> list[dict[str, Any]]:
            self._request = request
            if self._exchange is not None:  # from a previous attempt
                await self._exchange.aclose()
                self._exchange = None
            if check is not None:
                await check()
            self._exchange = await self._runner.open(request, turn)
            lines = await self._exchange.lines()
            if lines is None:
                raise ended_early(turn.server.url)
            if (said := reason_in_line(lines[0])) is not None:
                raise self._runner.with_partial(ServerReportedError(said), self._answer, turn)
            if self._answer.time_to_first_token is None:
                self._answer.time_to_first_token = turn.first()
            return lines

        return await self._runner.ask(request, attempt, turn)

    async def _go_on(self, turn: Turn, error: LLMError | ServerReportedError) -> None:
        """Resume an answer that broke off on another host.

        Raises:
            LLMError: The failure that broke it off, with the reason why it cannot be resumed; or a timeout in the
                meantime.
        """
        resuming, exchange = self._runner.resuming, self._exchange
        began = exchange is not None and self._answer.time_to_first_token is not None and turn.slot is not None
        if resuming is None or exchange is None or not began or self._last is not None or exchange.closed_here:
            raise error
        failure = self._runner.with_partial(error, self._answer, turn)
        if not breaks_off(failure) or not isinstance(turn, HostTurn):
            raise failure
        pieces = self._answer.pieces
        try:
            if self._whole is None or self._answer.thinks:
                raise NotResumed(self._never or "the model thinks")
            await exchange.aclose()
            self._exchange = self._broken = None
            lines = await resuming.go_on(
                turn, self._whole, pieces, failure, lambda again, check: self._ask(again, turn, check)
            )
        except NotResumed as found:
            failure.args = (f"{failure.message}; not resumed: {found}",)
            raise failure from (failure.__cause__ or found.__cause__)
        self._request = self._request.without_content()
        self._answer.earlier = tokens_at_least(pieces)
        self._seam = Seam(pieces)
        self._accept(lines, turn)
        if self.end is not None:
            await self._close(turn)
        elif turn.slot is not None:
            turn.slot.idle_since = time.monotonic()

    def _accept(self, lines: list[dict[str, Any]] | None, turn: Turn) -> None:
        """Turn lines into chunks, up to `max_chunks`, and queue all but the last of the answer."""
        if lines is None:
            raise ended_early(turn.server.url)
        answer, ready = self._answer, self.ready
        limit = self._request.config.max_chunks
        for line in lines:
            try:
                chunk = answer.chunk(line)
            except (LLMError, ServerReportedError) as error:
                if not ready:
                    raise
                self._broken = error  # after the chunks that came before it
                return
            if self._seam is not None:
                chunk.content = self._seam.new(chunk.content)
                if self._seam.is_closed:
                    self._seam = None
            if answer.final is not None:
                self._last = chunk
                return
            ready.append(chunk)
            if limit is not None and self._taken + len(ready) >= limit:
                self.end = "max_chunks"
                return

    async def _finish(self, turn: Turn, chunk: StreamChunk) -> None:
        """Build the response, attach it to the last chunk, and release everything."""
        self._delivered = self._answer.has_delivered()
        self._answer.deliver(chunk)
        response = await self._runner.finish(self._request, self._answer, turn)
        if response.content and not self._answer.text.strip():  # it arrived as thinking
            chunk.content = response.content
            self._answer.deliver(StreamChunk(chunk.content, "", (), {}))
        self.response = chunk.response = turn.response = response
        if self._exchange is not None:
            await self._exchange.drain()
        self.end = "done"
        self.ready.append(chunk)
        await self._close(turn)

    async def _close(self, turn: Turn, failure: BaseException | None = None) -> None:
        """Close the connection, and release the rest."""
        try:
            if self._exchange is not None:
                await self._exchange.aclose()
        except asyncio.CancelledError as error:
            if self.end != "error":  # the remaining chunks are dropped
                self.end, failure = "cancelled", error
                self.ready.clear()
            raise
        finally:
            self._give_back(turn, failure)

    def _give_back(self, turn: Turn, failure: BaseException | None = None) -> None:
        """Release the slot and finish the statistics."""
        self.end = self.end or "cancelled"
        self._whole = None
        turn.call.chunks = self._taken + len(self.ready)
        if turn.slot is not None:
            turn.slot.unmark()
        whole = self.end in ("done", "max_chunks")
        turn.end(failure, "success" if whole else outcome_of(failure) if failure is not None else "cancelled")
        self._closed.set()


class _Iteration:
    """Held by an `async for` loop only; leaving the loop drops it, which closes the stream."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> _Iteration:
        return self

    async def __anext__(self) -> StreamChunk:
        stream = self._stream
        if not (stream.ready or await stream.fill()):
            raise StopAsyncIteration
        # `Stream.take`, without a call for each token
        chunk = stream.ready.popleft()
        stream._taken += 1
        if chunk.response is None:
            stream._answer.deliver(chunk)
        return chunk

    def __del__(self) -> None:
        self._stream.drop()
