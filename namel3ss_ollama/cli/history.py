"""The lines of earlier conversations, for arrow up: readline's history, in a file that only its owner can read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["History"]

_MOST_LINES = 1000


def history_file() -> Path:
    """Where the lines are kept: in the user's folder for state (XDG_STATE_HOME)."""
    given = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    return folder / "namel3ss-ollama" / "history"


class History:
    """Reads the lines when a conversation begins, and writes each as it is typed.

    Where there is no readline (Windows), or the file cannot be used, it does nothing: a conversation goes on without.

    Args:
        kept: Whether lines come from the file and go there; else there is only the history of this conversation.
    """

    def __init__(self, *, kept: bool) -> None:
        self._kept = kept

    def open(self) -> None:
        """Have lines edited by readline, with the history so far."""
        with contextlib.suppress(ImportError):
            import readline

            readline.set_auto_history(False)
            if self._kept:
                with contextlib.suppress(OSError, RuntimeError):
                    readline.read_history_file(_private(history_file()))

    def add(self, line: str) -> None:
        """Remember a line."""
        with contextlib.suppress(ImportError):
            import readline

            last = readline.get_current_history_length()
            if not line.strip() or (last and readline.get_history_item(last) == line):
                return
            readline.add_history(line)
            append = getattr(readline, "append_history_file", None)  # libedit has none: all is written at the end
            if self._kept and append:
                with contextlib.suppress(OSError, RuntimeError):
                    append(1, _private(history_file()))

    def close(self) -> None:
        """Keep what is not kept yet, and shorten the file where it has become long."""
        with contextlib.suppress(ImportError, OSError, RuntimeError):
            import readline

            appended = hasattr(readline, "append_history_file")
            if self._kept and (not appended or readline.get_current_history_length() > _MOST_LINES):
                readline.set_history_length(_MOST_LINES)
                readline.write_history_file(_private(history_file()))


def _private(path: Path) -> Path:
    """The file, made if need be, for its owner alone.

    Raises:
        OSError: It cannot be made, or is no file of the user's.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        if os.name == "posix" and os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return path
