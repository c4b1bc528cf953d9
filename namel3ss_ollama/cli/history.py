"""The input history of earlier conversations (arrow up): readline's, in a file that only its owner can read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["History"]

_MOST_LINES = 1000


def history_file() -> Path:
    """The path of the history file, in the user's state directory (XDG_STATE_HOME)."""
    given = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    return folder / "namel3ss-ollama" / "history"


class History:
    """Loads the history when a conversation starts, and saves each line as it is typed.

    Without readline (Windows), or if the file cannot be used, it does nothing and the conversation continues.

    Args:
        kept: Whether to load and save the file; otherwise, the history is that of this conversation only.
    """

    def __init__(self, *, kept: bool) -> None:
        self._kept = kept

    def open(self) -> None:
        """Enable line editing by readline, with the saved history."""
        with contextlib.suppress(ImportError):
            import readline

            readline.set_auto_history(False)
            if self._kept:
                with contextlib.suppress(OSError, RuntimeError):
                    readline.read_history_file(_private(history_file()))

    def add(self, line: str) -> None:
        """Add a line."""
        with contextlib.suppress(ImportError):
            import readline

            last = readline.get_current_history_length()
            if not line.strip() or (last and readline.get_history_item(last) == line):
                return
            readline.add_history(line)
            append = getattr(
                readline, "append_history_file", None
            )  # libedit lacks it: everything is written at the end
            if self._kept and append:
                with contextlib.suppress(OSError, RuntimeError):
                    append(1, _private(history_file()))

    def close(self) -> None:
        """Save unsaved lines, and shorten a long file."""
        with contextlib.suppress(ImportError, OSError, RuntimeError):
            import readline

            appended = hasattr(readline, "append_history_file")
            if self._kept and (not appended or readline.get_current_history_length() > _MOST_LINES):
                readline.set_history_length(_MOST_LINES)
                readline.write_history_file(_private(history_file()))


def _private(path: Path) -> Path:
    """The file, created if needed, readable by its owner only.

    Raises:
        OSError: It cannot be created, or is not a regular file of the user.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        if os.name == "posix" and os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return path
