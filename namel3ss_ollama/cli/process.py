"""What the command owes the shell it was started from: standard streams, and a quiet end at Ctrl-C or a closed pipe.

Imports nothing that takes time: this is what is in place while everything else is imported.
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
"""What a shell reports for a program that SIGPIPE ended."""


def leave(number: int, frame: FrameType | None) -> None:
    """End the process at once: the handler of Ctrl-C while there is nothing to give back."""
    try:
        if os.isatty(2):
            # After the ^C that the terminal shows; bars of progress have hidden the cursor.
            os.write(2, b"\n" if os.environ.get("TERM") == "dumb" else b"\x1b[?25h\n")
    except OSError:
        pass
    os._exit(INTERRUPTED)


def leave_on_interrupt() -> None:
    """Have Ctrl-C call `leave` from now on, unless the process was started with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        try:
            signal.signal(signal.SIGINT, leave)
        except ValueError:
            pass  # not the main thread: Python lets no other have handlers


def open_closed_streams() -> None:
    """Give the process the standard streams that it was started without (`>&-`, pythonw): they lead nowhere.

    The descriptors are taken, too, lest a socket becomes number 1.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                if os.open(os.devnull, os.O_RDWR) == number:
                    os.set_inheritable(number, True)
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 # until the end


def discard_output(*streams: TextIO) -> None:
    """Let the interpreter's last flush go nowhere: that of both outputs, or of these."""
    for stream in streams or (sys.stdout, sys.stderr):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (OSError, ValueError):
            pass  # no file of the system's: nothing will complain
