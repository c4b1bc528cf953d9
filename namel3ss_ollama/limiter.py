"""How many requests run at once: one bound for every event loop and thread that shares a provider.

First come, first served. A slot is handed from the one who leaves to the one who has waited longest, under a lock
that is held for a few instructions and never while waiting, so that no newcomer overtakes and no wake-up is
lost. A waiter that is cancelled after it was handed a slot hands it on.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from namel3ss_ollama.errors import QueueFullError
from namel3ss_ollama.forks import renewed_after_fork
from namel3ss_ollama.settings import check_positive

__all__ = ["Limiter"]


class Limiter:
    """A first-come-first-served bound that works across event loops and threads.

    Args:
        max_concurrent: How many slots there are; None for no bound.
        max_queue: How many may wait; one more fails at once. None for no bound.
        queue_timeout: How long one may wait, in seconds. None for no bound.

    Raises:
        ValueError, TypeError: A limit is not a positive number (`max_queue` may be zero).
    """

    def __init__(
        self,
        max_concurrent: int | None = 10,
        max_queue: int | None = None,
        queue_timeout: float | None = None,
    ) -> None:
        check_positive("max_concurrent", max_concurrent, integer=True)
        check_positive("max_queue", max_queue, integer=True, zero=True)
        check_positive("queue_timeout", queue_timeout)
        self.max_concurrent = max_concurrent
        self.max_queue = max_queue
        self.queue_timeout = queue_timeout
        self.after_fork()
        renewed_after_fork(self)

    def after_fork(self) -> None:
        """All slots are free: those who hold one, or wait for one, are the parent's."""
        self._lock = threading.RLock()  # a coroutine that the garbage collector closes may take it within
        self._running = 0
        self._waiters: OrderedDict[_Waiter, None] = OrderedDict()

    @property
    def running(self) -> int:
        """Slots in use."""
        return self._running

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiters)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot.

        Raises:
            QueueFullError: `max_queue` wait already, or `queue_timeout` passed.
        """
        await self.acquire()
        try:
            yield
        finally:
            self.release()

    async def acquire(self) -> None:
        """Take a slot, waiting for one if need be; every `acquire` needs a `release`.

        Raises:
            QueueFullError: `max_queue` wait already, or `queue_timeout` passed.
        """
        with self._lock:
            if self.max_concurrent is None or self._running < self.max_concurrent:
                self._running += 1
                return
            if self.max_queue is not None and len(self._waiters) >= self.max_queue:
                raise QueueFullError(
                    f"{self._running} requests run and {len(self._waiters)} wait (max_queue={self.max_queue}); "
                    "try again later, or raise max_queue or max_concurrent"
                )
            waiter = _Waiter()
            self._waiters[waiter] = None
        try:
            await waiter.wait(self.queue_timeout)
        except BaseException as error:
            with self._lock:
                gave_up = self._waiters.pop(waiter, _HANDED) is not _HANDED
            if not gave_up:
                # The slot was handed over between the wake-up and the cancellation: pass it on.
                self.release()
            if isinstance(error, TimeoutError):
                raise QueueFullError(
                    f"no slot came free within queue_timeout={self.queue_timeout:g} s "
                    f"(max_concurrent={self.max_concurrent}); try again later, or raise one of them"
                ) from None
            raise

    def release(self) -> None:
        """Give a slot back; the one who has waited longest gets it."""
        with self._lock:
            while self._waiters:
                waiter, _ = self._waiters.popitem(last=False)
                if waiter.wake():
                    return  # the slot changed hands: as many run as before
            if self._running:  # a child may close what its parent began
                self._running -= 1


_HANDED = object()


class _Waiter:
    """One who waits, on the event loop that it waits on."""

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    async def wait(self, timeout: float | None) -> None:
        # Not asyncio.wait_for: before Python 3.12 it can swallow a cancellation that comes with the slot.
        timer = self._loop.call_later(timeout, self._expire) if timeout is not None else None
        try:
            await self._future
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self) -> None:
        if not self._future.done():
            self._future.set_exception(TimeoutError())

    def wake(self) -> bool:
        """Hand over the slot; False when the waiter's loop is gone, and the waiter with it."""
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:
            return False
        return True

    def _set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)
