"""Ctrl-C while an answer comes: it ends the answer, not the program."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["on_interrupt"]


@contextlib.contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C call `stop` in the running event loop; a second one raises `KeyboardInterrupt`.

    Does nothing where the program was started with SIGINT ignored, and outside the main thread, where Python allows
    no handlers.
    """
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        loop.call_soon_threadsafe(stop)

    try:
        if before not in (signal.SIG_IGN, None):
            signal.signal(signal.SIGINT, interrupted)
    except ValueError:
        before = None
    try:
        yield
    finally:
        if before not in (signal.SIG_IGN, None):
            signal.signal(signal.SIGINT, before)
