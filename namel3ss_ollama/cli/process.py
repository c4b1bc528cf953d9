"""Process setup: standard streams, and a quiet exit on Ctrl-C or a closed pipe.

Imports nothing slow: this is active while everything else is imported.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import TextIO

__all__ = ["BROKEN_PIPE", "INTERRUPTED", "discard_output", "leave", "leave_on_interrupt", "open_closed_streams"]

INTERRUPTED = 130
BROKEN_PIPE = 141
"""The exit code that a shell reports for a program killed by SIGPIPE."""


def leave(number: int, frame: FrameType | None) -> None:
    """End the process at once: the Ctrl-C handler while there are no resources to release."""
    try:
        if os.isatty(2):
            # After the ^C that the terminal shows; progress bars have hidden the cursor.
            os.write(2, b"\n" if os.environ.get("TERM") == "dumb" else b"\x1b[?25h\n")
    except OSError:
        pass
    os._exit(INTERRUPTED)


def leave_on_interrupt() -> None:
    """Make Ctrl-C call `leave` from now on, unless the process was started with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        try:
            signal.signal(signal.SIGINT, leave)
        except ValueError:
            pass  # only the main thread can set signal handlers


def open_closed_streams() -> None:
    """Open missing standard streams (`>&-`, pythonw) on the null device.

    That also reserves the descriptors, so that no socket becomes number 1.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                if os.open(os.devnull, os.O_RDWR) == number:
                    os.set_inheritable(number, True)
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 # open until exit


def discard_output(*streams: TextIO) -> None:
    """Discard the interpreter's final flush of both outputs, or of the given streams."""
    for stream in streams or (sys.stdout, sys.stderr):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (OSError, ValueError):
            pass  # not a system file: its flush cannot fail
