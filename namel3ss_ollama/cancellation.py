"""Cancelling a task from a timer, and telling that cancellation from any other, on Python 3.10 too.

From 3.11 on a task counts its cancellations. Before, ours leaves a mark, which any later one wipes out, and stays away
where another one is under way.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["cancel", "pending_cancellations", "shielded_from_task_groups", "take_back"]

T = TypeVar("T")

if sys.version_info >= (3, 11):
    pending_cancellations: Callable[[asyncio.Task[Any]], int] = asyncio.Task.cancelling
    """How many cancellations of the task are under way; for `take_back`."""

    def cancel(task: asyncio.Task[Any]) -> None:
        """Cancel the task."""
        task.cancel()

    def take_back(task: asyncio.Task[Any], pending: int) -> bool:
        """Take back a cancellation by `cancel`; whether another one came since there were `pending`."""
        return task.uncancel() > pending

    async def shielded_from_task_groups(
        coroutine: Coroutine[Any, Any, T], *, close: Callable[[T], Awaitable[None]]
    ) -> T:
        """The coroutine's result; see the version for Python 3.10."""
        return await coroutine

else:
    _MARK = "a deadline of namel3ss_ollama passed"

    def pending_cancellations(task: asyncio.Task[Any]) -> int:
        """Nothing that this Python knows."""
        return 0

    def cancel(task: asyncio.Task[Any]) -> None:
        """Cancel the task, unless it is being cancelled."""
        waiter = getattr(task, "_fut_waiter", None)
        if not (getattr(task, "_must_cancel", False) or (waiter is not None and waiter.cancelled())):
            setattr(task, "_cancel_message", _MARK)  # noqa: B010 -- typeshed does not know it
            task.cancel(msg=_MARK)

    def take_back(task: asyncio.Task[Any], pending: int) -> bool:
        """Whether another cancellation than that by `cancel` came."""
        return bool(getattr(task, "_cancel_message", None) != _MARK)

    async def shielded_from_task_groups(
        coroutine: Coroutine[Any, Any, T], *, close: Callable[[T], Awaitable[None]]
    ) -> T:
        """The coroutine's result, from a task of its own; `close` is awaited with a result that nobody waits for.

        A task group that ends cannot tell its own cancellation from one that comes from outside in that moment, and
        swallows both; plain httpx connects within one.
        """
        task = asyncio.ensure_future(coroutine)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is None:
                await close(task.result())
            raise
        return task.result()
