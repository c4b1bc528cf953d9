"""A gate: holds answers until a test releases them, so that no test has to sleep."""

from __future__ import annotations

import asyncio
import threading

__all__ = ["Gate"]


class Gate:
    """Holds answers until a test releases them. Works like `threading.Event`, initially closed.

    `open()` releases all answers from then on, `step(n)` only the next n, `close()` holds again. `waiting` is the
    number of answers held now; `server.wait_for(lambda s: gate.waiting == 1)` waits for one to arrive. Safe to use from
    any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._permits = 0
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def is_open(self) -> bool:
        """Whether the gate is open."""
        return self._open

    @property
    def waiting(self) -> int:
        """Answers held here now."""
        return len(self._waiters)

    def open(self) -> None:
        """Release all waiting and future answers."""
        with self._lock:
            self._open = True
            self._wake(len(self._waiters))

    def close(self) -> None:
        """Hold answers from now on."""
        with self._lock:
            self._open = False
            self._permits = 0

    def step(self, count: int = 1) -> None:
        """Release the next `count` answers, waiting ones first. Raises `ValueError` if `count` is not positive."""
        if count < 1:
            raise ValueError(f"count: {count} is not positive")
        with self._lock:
            woken = min(count, len(self._waiters))
            self._wake(woken)
            self._permits += count - woken

    def _wake(self, count: int) -> None:
        woken, self._waiters = self._waiters[:count], self._waiters[count:]
        for loop, future in woken:
            try:
                loop.call_soon_threadsafe(_release, future)
            except RuntimeError:  # its server has stopped
                pass

    def enter(self) -> asyncio.Future[None] | None:
        """For the server: a future to wait for, or None to continue at once."""
        with self._lock:
            if self._open:
                return None
            if self._permits:
                self._permits -= 1
                return None
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self._waiters.append((loop, future))
            return future

    def leave(self, future: asyncio.Future[None]) -> None:
        """For the server: stop waiting for this future."""
        with self._lock:
            self._waiters = [waiter for waiter in self._waiters if waiter[1] is not future]


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
