"""The state shared between the server's thread and the tests: records, counts, and ways to wait.

Only the server's thread changes it; a change wakes the waiters. The order makes this correct without a lock on the hot
path: a waiter registers and then checks the state; the server changes the state and then checks for waiters. One of the
two always sees the other.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .answers import error
from .api import respond
from .checks import State
from .record import Record
from .script import Script
from .slots import Slots
from .wire import Step, steps

if TYPE_CHECKING:
    from .protocol import Connection

__all__ = ["Hub"]


class Hub:
    """The `Host` of all connections; `refuse` is called, in the server's thread, when a fault closes the port."""

    def __init__(
        self, state: State, keep_alive: bool, refuse: Callable[[], None], num_parallel: int | None = None
    ) -> None:
        self.state = state
        self.script = Script()
        self.records: list[Record] = []
        self.open: set[Connection] = set()
        self.accepted = 0
        self.active = 0
        self.errors: list[BaseException] = []
        self.refuse_from_loop = refuse
        self._keep_alive = keep_alive
        self._slots = Slots(num_parallel)
        self._emptied: asyncio.Event | None = None
        self._condition = threading.Condition()
        self._waiting = 0
        self._async_waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    # Called by connections

    def opened(self, connection: Connection) -> int:
        """A connection was accepted; returns its number."""
        self.accepted += 1
        self.open.add(connection)
        self.changed()
        return self.accepted

    def closed(self, connection: Connection) -> None:
        """A connection was closed."""
        self.open.discard(connection)
        if not self.open and self._emptied is not None:
            self._emptied.set()
        self.changed()

    def received(self, record: Record) -> asyncio.Future[None] | None:
        """A request was read; returns a slot to wait for, if none is free."""
        record.number = len(self.records) + 1
        self.active += 1
        self.records.append(record)
        waits = self._slots.enter(record)
        if waits is not None:
            self.changed()
        return waits

    def planned(self, record: Record) -> tuple[list[Step], bool]:
        """A request has its slot; returns what to do, and whether to close the connection afterwards."""
        http10 = record.http_version == "1.0"
        close = not self._keep_alive or http10 or "close" in record.headers.get("connection", "").lower()
        try:
            reply, fault = self.script.pick(record)
            answer = respond(self.state, record, reply, fault)
            plan = steps(answer, head_only=record.method == "HEAD", http10=http10, close=close)
        except Exception as problem:
            self.errors.append(problem)
            plan = steps(error(500, f"the test server failed: {problem!r}"), close=close)
        self.changed()
        return plan, close

    def ended(self, record: Record) -> None:
        """A request's answer has ended."""
        self.active -= 1
        self._slots.leave(record)
        self.changed()

    def changed(self) -> None:
        """Something that a test may wait for has changed."""
        if self._waiting:
            with self._condition:
                self._condition.notify_all()
                for loop, event in self._async_waiters:
                    try:
                        loop.call_soon_threadsafe(event.set)
                    except RuntimeError:  # that loop is closed
                        pass

    # Called by the server

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        self._emptied = asyncio.Event()
        if self.open:
            await self._emptied.wait()
        self._emptied = None

    def wait(self, holds: Callable[[], bool], describe: Callable[[], str], timeout: float) -> None:
        """Block until `holds()`; `AssertionError` with `describe()` after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._condition:
            self._waiting += 1
            try:
                while not holds():
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise AssertionError(describe())
                    self._condition.wait(left)
            finally:
                self._waiting -= 1

    async def wait_async(self, holds: Callable[[], bool], describe: Callable[[], str], timeout: float) -> None:
        """As `wait`, without blocking the running loop."""
        deadline = time.monotonic() + timeout
        event = asyncio.Event()
        waiter = (asyncio.get_running_loop(), event)
        with self._condition:
            self._async_waiters.append(waiter)
            self._waiting += 1
        try:
            while not holds():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(describe())
                # Not asyncio.wait_for: before Python 3.12 it can swallow a cancellation that arrives with the event.
                timer = asyncio.get_running_loop().call_later(left, event.set)
                try:
                    await event.wait()
                finally:
                    timer.cancel()
                event.clear()
        finally:
            with self._condition:
                self._async_waiters.remove(waiter)
                self._waiting -= 1

    def describe(self) -> str:
        """Counts and the last requests, for messages."""
        shown = [f"  {record!r}" for record in self.records[-20:]]
        hidden = len(self.records) - len(shown)
        return "\n".join(
            [
                f"{len(self.records)} requests ({self.active} active), {len(self.open)} open connections of "
                f"{self.accepted} accepted, {len(self.errors)} errors",
                *([f"  ... {hidden} earlier requests"] if hidden else []),
                *shown,
                *(f"  error: {one!r}" for one in self.errors),
            ]
        )
