"""A spinner on the terminal until the first part of an answer arrives."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator, Callable

from namel3ss_ollama.cli.console import styled
from namel3ss_ollama.cli.wrapping import width_of

__all__ = ["waiting"]

_DELAY = 0.4
"""Seconds before the spinner appears."""
_TURN = 0.15
"""Seconds per frame."""
_FRAMES = "|/-\\"


@contextlib.asynccontextmanager
async def waiting(what: str) -> AsyncIterator[Callable[[], None]]:
    """Show a spinner until the block ends or the yielded function is called, whichever comes first.

    Only if both outputs are terminals.
    """
    width = width_of(sys.stderr)
    if width is None or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        yield _nothing
        return
    drawn = False

    async def turn() -> None:
        nonlocal drawn
        start = time.monotonic()
        await asyncio.sleep(_DELAY)
        for frame in itertools.cycle(_FRAMES):
            line = f"{frame} {what} ({time.monotonic() - start:.0f} s)"[: width - 1]
            drawn = True
            _write(f"\r{styled(line, 'dim', sys.stderr)}\x1b[K")
            await asyncio.sleep(_TURN)

    task = asyncio.ensure_future(turn())

    def stop() -> None:
        nonlocal drawn
        task.cancel()
        if drawn:
            drawn = False
            _write("\r\x1b[K")

    try:
        yield stop
    finally:
        stop()


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _nothing() -> None:
    """Stop nothing: there is no spinner."""
