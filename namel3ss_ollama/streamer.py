"""From bytes to objects, and the deadlines.

Three parts, the first two without I/O. `LineDecoder` cuts bytes, however they arrive, into lines at byte 0x0A
only: an answer may contain any Unicode line separator. `LineParser` parses a line into an object. `Watch` limits every
wait of one exchange with a single timer, so that a token costs no more than reading the clock: the timer checks when
the current wait began, and cancels the waiting task if that is too long ago.

The time that the caller spends between chunks counts only towards `stream_timeout`, because a wait begins when the
caller asks for the next chunk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar
from weakref import ref

import orjson

from namel3ss_ollama.cancellation import cancel, pending_cancellations, take_back
from namel3ss_ollama.errors import LLMTimeoutError, MalformedResponseError
from namel3ss_ollama.exact import has_long_integer, is_plain, read_unusual
from namel3ss_ollama.halves import Halves
from namel3ss_ollama.settings import StreamConfig

__all__ = ["LineDecoder", "LineParser", "LineTooLongError", "Watch", "is_cut", "parse_line"]

T = TypeVar("T")
_BRACKET = ord("[")
_TURNS = 10
"""Iterations of the event loop from bytes in a socket to a parsed line; httpx needs the most, about five."""
Deadline = Literal["first_chunk_timeout", "chunk_timeout", "tool_call_timeout", "stream_timeout", "timeout"]
_Silence = tuple[Deadline, float | None]


class LineTooLongError(MalformedResponseError):
    """A line exceeds `max_line_bytes`."""


class LineDecoder:
    """Splits a byte stream into lines, in time linear in the bytes however they arrive.

    Args:
        max_line_bytes: The maximum length of a line.
    """

    __slots__ = ("_failed", "_limit", "_pending", "_pending_bytes")

    def __init__(self, max_line_bytes: int) -> None:
        self._limit = max_line_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._failed = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their line ends.

        Raises:
            LineTooLongError: A line, complete or not, is over the limit; the lines before it are returned first.
        """
        if self._failed:
            raise self._too_long()
        lines = data.split(b"\n")
        tail = lines.pop()
        if lines and self._pending:
            self._pending.append(lines[0])
            lines[0] = b"".join(self._pending)
            self._pending = []
            self._pending_bytes = 0
        if tail:
            self._pending.append(tail)
            self._pending_bytes += len(tail)
            self._failed = self._pending_bytes > self._limit
        if lines and (len(lines[0]) > self._limit or len(data) > self._limit):
            for index, line in enumerate(lines):
                if len(line) > self._limit:
                    self._failed = True
                    del lines[index:]
                    break
        if self._failed and not lines:
            raise self._too_long()
        return lines

    def finish(self) -> bytes:
        """The data after the last line end: a last line without one, or part of a line."""
        if self._failed:
            raise self._too_long()
        rest = b"".join(self._pending)
        self._pending = []
        self._pending_bytes = 0
        return rest

    def _too_long(self) -> LineTooLongError:
        return LineTooLongError(
            f"the server sent a line of more than {self._limit} bytes; raise max_line_bytes if that is expected"
        )


class LineParser:
    """Parses the lines of one answer; a character may be split across lines."""

    __slots__ = ("_halves",)

    def __init__(self) -> None:
        self._halves = Halves()

    def parse(self, line: bytes) -> dict[str, Any] | None:
        """A line as an object; None for a blank line.

        Raises:
            MalformedResponseError: The line is no JSON object.
        """
        try:
            value = orjson.loads(line)
            # Calls are a list: a line without a bracket, like most, holds none. Searching for one byte is fast.
            if _BRACKET in line and b"tool_calls" in line and has_long_integer(line):
                with contextlib.suppress(ValueError):  # nested too deep for orjson
                    value = read_unusual(line)
        except orjson.JSONDecodeError as error:
            if not line.strip():
                return None
            return self._unusual(line, error)
        if not isinstance(value, dict):
            raise MalformedResponseError(
                f"the server sent JSON that is not an object but {type(value).__name__}; is this an Ollama server?"
            )
        return self._halves.join(value) if self._halves.waiting else value

    def _unusual(self, line: bytes, error: orjson.JSONDecodeError) -> dict[str, Any]:
        """Parse a line that orjson refuses: lone surrogates, invalid numbers."""
        try:
            value = read_unusual(line)
            if not isinstance(value, dict) or not (_OF_ANSWERS & value.keys() or is_plain(value)):
                raise ValueError("no line of an answer")
            return self._halves.join(value)
        except ValueError:
            raise MalformedResponseError(
                f"the server sent a line that is not JSON ({error.msg} at byte {error.pos} of {len(line)}); "
                "is this address an Ollama server, and does no proxy change its answers?",
                original_error=error,
            ) from error


_OF_ANSWERS = frozenset({"message", "response", "done"})


def parse_line(line: bytes) -> dict[str, Any] | None:
    """A self-contained line as an object; None for a blank line.

    Raises:
        MalformedResponseError: The line is no JSON object.
    """
    return LineParser().parse(line)


def is_cut(line: bytes) -> bool:
    """Whether an invalid line is only incomplete, so that more data could make it valid JSON."""
    try:
        line.decode()
        orjson.loads(line)
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    except orjson.JSONDecodeError as error:
        return "end of data" in error.msg
    return False


class Watch:
    """The deadlines of one exchange, and a way to cancel it from another task.

    Every wait goes through `guard`. One timer covers all of them; it cancels the waiting task, and `guard` turns that
    cancellation, distinguished from any other, into the corresponding error.

    Args:
        config: The deadlines.
        timeout: The limit for the call, including the wait for a slot, in seconds from now.
        remedy: The advice when `first_chunk_timeout` passes, if loading a model is not the likely cause.
        tools: Whether the request has tools, so that the server may be silent while the model writes a call.
    """

    __slots__ = (
        "_fired", "_first", "_idle", "_limit", "_limit_name", "_loop", "_next", "_overdue", "_pending", "_since",
        "_task", "_timer", "_waited", "config", "expires", "expires_name", "expires_seconds", "remedy",
    )  # fmt: skip

    def __init__(
        self, config: StreamConfig, timeout: float | None = None, remedy: str | None = None, *, tools: bool = False
    ) -> None:
        self.config = config
        self.remedy = remedy
        self._loop = _running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: ref[asyncio.Task[Any]] | None = None
        self._since: float | None = None
        self._waited = 0.0
        self._idle = True
        self._overdue = 0
        self._pending = 0
        self._fired: Deadline | Literal["cancelled"] | None = None
        self._first: _Silence = ("first_chunk_timeout", config.first_chunk_timeout)
        self._next: _Silence = ("chunk_timeout", config.chunk_timeout)
        if tools:
            of_calls: _Silence = ("tool_call_timeout", config.tool_call_timeout)
            self._first, self._next = _longer(self._first, of_calls), _longer(self._next, of_calls)
        self._limit_name, self._limit = self._first
        self.expires: float | None = None
        self.expires_name: Deadline = "timeout"
        self.expires_seconds = 0.0
        self._expire_in(timeout, "timeout")

    def begin(self) -> None:
        """The request has its slot and begins: `stream_timeout` starts."""
        self._expire_in(self.config.stream_timeout, "stream_timeout")

    def _expire_in(self, seconds: float | None, name: Deadline) -> None:
        if seconds is None:
            return
        when = self._loop.time() + seconds
        if self.expires is None or when < self.expires:
            self.expires, self.expires_name, self.expires_seconds = when, name, seconds
            self.close()  # the timer may be set to a later time

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it belongs to."""
        return self._loop

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._fired == "cancelled"

    def restart(self) -> None:
        """A new attempt begins: the next chunk is a first chunk again."""
        self._waited = 0.0
        self._limit_name, self._limit = self._first
        self.close()

    def forgive(self) -> None:
        """The request moves to another server: restart the wait for it. The limits for the request still apply."""
        if self._fired is not None and self._fired in (self._first[0], self._next[0]):
            self._fired, self._overdue = None, 0
        self.restart()

    def progress(self) -> None:
        """A chunk has arrived: start the wait for the next one."""
        self._waited = 0.0
        if self._limit_name != self._next[0]:
            self._limit_name, self._limit = self._next
            self.close()  # the timer is set to the longer deadline of the first chunk

    def remaining(self) -> float | None:
        """Seconds until the limit for the call; None if there is none."""
        return None if self.expires is None else self.expires - self._loop.time()

    def alive(self) -> None:
        """Within a wait: the server is still reading the request, so restart the wait."""
        self._waited = 0.0
        if self._since is not None:
            self._since = self._loop.time()

    async def guard(self, wait: Callable[[], Awaitable[T]], *, idle: bool = True) -> T:
        """Await `wait()` within the deadlines.

        Args:
            wait: Returns the awaitable.
            idle: Whether this is a wait for the server; if not, only the limits for the call apply.

        Raises:
            LLMTimeoutError: A deadline passed; the message names it.
            WatchCancelled: `cancel` was called.
        """
        if self._fired is not None:
            raise self._error()
        now = self._loop.time()
        if self.expires is not None and now >= self.expires:
            self._fired = self.expires_name
            raise self._error()
        if self._idle is not idle:
            self._idle = idle
            self.close()  # the timer may be set for a deadline of another wait
        self._since = now
        task = asyncio.current_task()
        if task is not None:
            self._pending = pending_cancellations(task)
            # Weak, and not stored here: if the collector closes this frame first, its task must outlive that.
            self._task = ref(task)
            task = None
        if self._timer is None:
            self._arm(now)
        try:
            result = await wait()
        except asyncio.CancelledError:
            if self._fired is None or self._cancelled_from_outside():
                raise
            raise self._error() from None
        except Exception as error:
            if self._loop.is_closed():  # only a coroutine that is being destroyed gets here, and it must end as one
                raise GeneratorExit from None
            if self._fired is None:
                raise
            if self._cancelled_from_outside():
                raise asyncio.CancelledError from error
            raise self._error() from error  # another exception that our cancellation turned into
        else:
            if self._fired is not None:  # too late, the wait was over: the next wait raises
                self._cancelled_from_outside()
            return result
        finally:
            if idle and self._since is not None:
                self._waited += self._loop.time() - self._since
            self._since = None
            self._task = None

    def cancel(self) -> bool:
        """End the current wait, if there is one, and reject all further ones; whether there was one.

        Must be called on the watch's event loop.
        """
        if self._fired is None:
            self._fire("cancelled")
        return self._waiting() is not None

    def _waiting(self) -> asyncio.Task[Any] | None:
        return self._task() if self._task is not None else None

    def close(self) -> None:
        """Drop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, now: float) -> None:
        when = self._due(now)
        self._timer = self._loop.call_at(when, self._check) if when is not None else None

    def _due(self, now: float) -> float | None:
        """When to check next: the earliest time at which a deadline can have passed."""
        when = self.expires
        if self._limit is not None and self._idle:
            began = self._since if self._since is not None else now
            idle = began + self._limit - self._waited
            when = idle if when is None else min(when, idle)
        return when

    def _check(self) -> None:
        self._timer = None
        if self._since is None:
            return  # nothing waits; the next guard() arms the timer again
        now = self._loop.time()
        if self.expires is not None and now >= self.expires:
            self._fire(self.expires_name)
        elif self._limit is None or not self._idle or self._waited + now - self._since < self._limit:
            self._overdue = 0
            self._arm(now)
        elif self._overdue == _TURNS:
            self._fire(self._limit_name)
        else:
            # A blocked event loop runs due timers before tasks that data has woken: let those tasks run first.
            self._overdue += 1
            self._timer = self._loop.call_later(0, self._check)

    def _fire(self, why: Deadline | Literal["cancelled"]) -> None:
        self._fired = why
        task = self._waiting()
        if task is not None:
            cancel(task)

    def _cancelled_from_outside(self) -> bool:
        """Undo our own cancellation; whether there is another one, too."""
        task = self._waiting()
        return task is not None and take_back(task, self._pending)

    def _error(self) -> Exception:
        if self._fired == "cancelled" or self._fired is None:
            return WatchCancelled()
        if self._fired == self.expires_name and self._fired in ("stream_timeout", "timeout"):
            return timeout_error(self._fired, self.expires_seconds)
        remedy = self.remedy if self._fired == "first_chunk_timeout" else None
        return timeout_error(self._fired, self._limit or 0.0, remedy=remedy)


def _longer(one: _Silence, other: _Silence) -> _Silence:
    """The longer of two deadlines; None is unlimited."""
    if one[1] is None or (other[1] is not None and one[1] >= other[1]):
        return one
    return other


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "this needs a running asyncio event loop: call it within asyncio.run(...), or, in synchronous code and in "
            "threads of trio, use the blocking methods of provider.sync"
        ) from None


class WatchCancelled(Exception):
    """The caller cancelled the exchange; internal to the core."""


_REMEDIES = {
    "connect": "check that the address is right and the host is up",
    "first_chunk_timeout": "a large model may still be loading: raise first_chunk_timeout, or call preload() first",
    "chunk_timeout": "the server stalled: look at its log, or raise chunk_timeout",
    "tool_call_timeout": "a server is silent while the model writes a call: raise tool_call_timeout for longer calls",
    "stream_timeout": "raise stream_timeout, or ask for fewer tokens (max_tokens)",
    "timeout": "raise timeout, or ask for fewer tokens (max_tokens)",
}


def timeout_error(
    deadline: str, seconds: float, original: BaseException | None = None, *, remedy: str | None = None
) -> LLMTimeoutError:
    """The error for a passed deadline, with its remedy."""
    return LLMTimeoutError(
        f"timed out: {deadline} of {seconds:g} s passed; {remedy or _REMEDIES[deadline]}",
        original_error=original,
        deadline=deadline,
        seconds=seconds,
    )
