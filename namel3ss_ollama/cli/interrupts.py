"""Ctrl-C in asynchronous code: it cancels what is going on, connections and all, and is never overheard.

Python runs a signal's handler between two bytecodes of the main thread. A signal that comes in the moment before the
event loop begins to wait would be noticed only when something else ends that wait: hours later, if a server stalls.
So the loop gets a pipe that each signal writes to, which is what its `add_signal_handler` sets up (loops on Windows
have one anyway).
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
    """The coroutine's result, as `asyncio.run`.

    Raises:
        KeyboardInterrupt: Ctrl-C cancelled it, and it has given back what it held.
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
        _restore(before)  # closing the loop takes away more than it was given


@contextlib.contextmanager
def on_interrupt(stop: Callable[[], object]) -> Iterator[None]:
    """Let the first Ctrl-C call `stop` in the running event loop; a second one does what it did before.

    Does nothing where the program was started with SIGINT ignored, and outside the main thread, where Python allows
    no handlers.
    """
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: FrameType | None) -> None:
        _restore(before)
        loop.call_soon_threadsafe(stop)

    if before not in (signal.SIG_IGN, None):
        # Not on Windows, and not off the main thread: there Ctrl-C stays what Python makes of it.
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
    """Let Ctrl-C raise `KeyboardInterrupt` in the block, as Python has it, unless SIGINT is ignored."""
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
    """The loop has a handler of its own to call; `interrupted` does the work."""
