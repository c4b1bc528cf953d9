"""A clock that tests move: timeouts of minutes pass at once, and to the second."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run, however slow the machine is.
settings.register_profile("unit", deadline=None, derandomize=True, database=None, max_examples=80)
settings.load_profile("unit")


class IdleSelector(selectors.DefaultSelector):
    """Instead of waiting until the next timer is due, it moves the clock there."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits, and nothing is left that could end it")
            self.now += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop of the usual kind, but for its clock."""

    def __init__(self) -> None:
        self._idle = IdleSelector()
        super().__init__(self._idle)

    def time(self) -> float:
        return self._idle.now

    def spend(self, seconds: float) -> None:
        """Let time pass without giving others a turn, as code that computes does."""
        self._idle.now += seconds


def run_on_virtual_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.fixture(scope="session")
def virtual() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on a loop whose clock jumps; returns its result."""
    return run_on_virtual_loop
