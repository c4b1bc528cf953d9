"""Cancelling a task from a timer, and distinguishing that cancellation from any other, also on Python 3.10.

Since 3.11 a task counts its cancellations. Before, ours leaves a mark, which any later cancellation overwrites, and it
does nothing while another cancellation is pending.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["cancel", "in_own_task", "pending_cancellations", "take_back", "to_the_end"]

T = TypeVar("T")

if sys.version_info >= (3, 11):
    # Not `Task.cancelling` itself: nest_asyncio puts another class in the place of `Task`.
    pending_cancellations: Callable[[asyncio.Task[Any]], int] = operator.methodcaller("cancelling")
    """The number of pending cancellations of the task; for `take_back`."""

    def cancel(task: asyncio.Task[Any]) -> None:
        """Cancel the task."""
        task.cancel()

    def take_back(task: asyncio.Task[Any], pending: int) -> bool:
        """Undo a cancellation by `cancel`; whether another one has arrived since `pending` was taken."""
        return task.uncancel() > pending

else:
    _MARK = "a deadline of namel3ss_ollama passed"

    def pending_cancellations(task: asyncio.Task[Any]) -> int:
        """Not available in this version of Python."""
        return 0

    def cancel(task: asyncio.Task[Any]) -> None:
        """Cancel the task, unless it is being cancelled."""
        waiter = getattr(task, "_fut_waiter", None)
        if not (getattr(task, "_must_cancel", False) or (waiter is not None and waiter.cancelled())):
            setattr(task, "_cancel_message", _MARK)  # noqa: B010 -- typeshed does not know it
            task.cancel(msg=_MARK)

    def take_back(task: asyncio.Task[Any], pending: int) -> bool:
        """Whether a cancellation other than that by `cancel` has arrived."""
        return bool(getattr(task, "_cancel_message", None) != _MARK)


async def in_own_task(
    coroutine: Coroutine[Any, Any, T], *, close: Callable[[T], Coroutine[Any, Any, object]] | None = None
) -> T:
    """The coroutine's result, from a task of its own, which is cancelled once, however often the caller is.

    For plain httpx: a second cancellation that arrives while httpcore cleans up after the first leaves the connection
    open. Also, before Python 3.11, a task group that is ending (httpx connects in one) cannot distinguish its own
    cancellation from an external one at the same moment, and swallows both.

    Args:
        coroutine: What to run.
        close: Closes a result that was produced despite the cancellation.
    """
    task = asyncio.ensure_future(coroutine)
    try:
        await _done(task)
    except asyncio.CancelledError:
        task.cancel()
        await _done_despite_cancellation(task)
        if close is not None and not task.cancelled() and task.exception() is None:
            await to_the_end(close(task.result()))
        raise
    except GeneratorExit:  # this coroutine is being destroyed, maybe in another thread
        with contextlib.suppress(RuntimeError):
            task.get_loop().call_soon_threadsafe(task.cancel)
        raise
    return task.result()


async def to_the_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result; a cancellation in the meantime is raised once it is done. For short clean-ups."""
    task = asyncio.ensure_future(coroutine)
    try:
        await _done(task)
    except asyncio.CancelledError:
        await _done_despite_cancellation(task)
        if not task.cancelled():
            task.exception()
        raise
    return task.result()


async def _done(task: asyncio.Task[Any]) -> None:
    waiter = task.get_loop().create_future()

    def wake(_: asyncio.Task[Any]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    task.add_done_callback(wake)
    await waiter


async def _done_despite_cancellation(task: asyncio.Task[Any]) -> None:
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await _done(task)
