"""A virtual clock: timeouts of minutes pass at once, and exactly."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["VirtualLoop", "run_in_virtual_time"]

T = TypeVar("T")


class IdleSelector(selectors.DefaultSelector):
    """Moves the clock to the next timer instead of waiting for it."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("deadlock: all tasks wait, and no timer is scheduled")
            self.now += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An ordinary event loop with a virtual clock."""

    def __init__(self) -> None:
        self._idle = IdleSelector()
        super().__init__(self._idle)

    def time(self) -> float:
        return self._idle.now

    def spend(self, seconds: float) -> None:
        """Advance the clock without running other tasks, as blocking code does."""
        self._idle.now += seconds


def run_in_virtual_time(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine without waiting, and return its result; `loop.time()` is the virtual time.

    A coroutine that leaves tasks behind fails.
    """
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(coroutine)
        assert not asyncio.all_tasks(loop), f"tasks are left: {asyncio.all_tasks(loop)}"
        return result
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
