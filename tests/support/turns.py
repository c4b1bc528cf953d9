"""An event loop that counts its turns (iterations), so that a test can act between any two of them."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["TurnLoop", "run_by_turns"]

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """The loop calls `select` once per turn, and waits in it when idle: waiting takes no turns."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0
        self.due: dict[int, Callable[[], object]] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turn += 1
        act = self.due.pop(self.turn, None)
        if act is not None:
            act()
            timeout = 0  # it may have scheduled callbacks
        return super().select(timeout)


class TurnLoop(asyncio.SelectorEventLoop):
    """An ordinary event loop that calls functions after given numbers of turns."""

    def __init__(self) -> None:
        self._turns = _Selector()
        super().__init__(self._turns)

    def after(self, turns: int, act: Callable[[], object]) -> None:
        """Call `act` between two turns, `turns` from now."""
        self._turns.due[self._turns.turn + 1 + turns] = act

    def forget(self) -> None:
        """Cancel all scheduled calls."""
        self._turns.due.clear()


def run_by_turns(main: Callable[[TurnLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on such a loop, and close the loop as `asyncio.run` does."""
    loop = TurnLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
