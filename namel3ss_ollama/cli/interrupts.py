"""Ctrl-C in asynchronous code: it cancels the running task, including its connections, and is never missed.

Python runs a signal's handler between two bytecodes of the main thread. A signal that arrives just before the event
loop starts to wait would be noticed only when something else ends that wait: hours later, if a server stalls. So the
loop gets a wakeup pipe that each signal writes to; its `add_signal_handler` sets that up (loops on Windows always have
one).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

__all__ = ["on_interrupt", "raising_interrupts", "run"]

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like `asyncio.run`, and return its result.

    Raises:
        KeyboardInterrupt: Ctrl-C cancelled it, and it has released its resources.
    """

    async def interruptible() -> T:
        task = asyncio.ensure_future(coroutine)
        with on_interrupt(task.cancel):
            return await task

    before = signal.getsignal(signal.SIGINT)
    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        _restore(before)  # closing the loop removes more handlers than were added


@contextlib.contextmanager
def on_interrupt(stop: Callable[[], object]) -> Iterator[None]:
    """Make the first Ctrl-C call `stop` in the running event loop; a second one has its previous effect.

    Does nothing if the program was started with SIGINT ignored, or outside the main thread, where Python allows no
    handlers.
    """
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: FrameType | None) -> None:
        _restore(before)
        loop.call_soon_threadsafe(stop)

    if before not in (signal.SIG_IGN, None):
        # Not on Windows or outside the main thread: there, Python's own handling of Ctrl-C stays.
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGINT, _nothing)
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        _restore(before)


@contextlib.contextmanager
def raising_interrupts() -> Iterator[None]:
    """Make Ctrl-C raise `KeyboardInterrupt` in the block, Python's default, unless SIGINT is ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before not in (signal.SIG_IGN, None):
        _restore(signal.default_int_handler)
    try:
        yield
    finally:
        _restore(before)


def _restore(handler: Any) -> None:
    if handler not in (signal.SIG_IGN, None):
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, handler)


def _nothing() -> None:
    """A handler for the loop to call; `interrupted` does the work."""
