"""Word wrapping for a terminal, of complete paragraphs and of a streamed answer."""

from __future__ import annotations

import contextlib
import os
import re
import textwrap
from collections.abc import Callable
from typing import TextIO

__all__ = ["WordWrap", "filled", "width_of"]

_LEAST = 20
"""The fewest columns: narrower terminals, and wrong reports, are treated as this wide."""
_FENCE = re.compile(r"\s*(```|~~~)")
_LONGEST_FENCE = 80
_PIECES = re.compile(r"\n|[^\S\n]+|\S+")
_WIDE = "\u2e80"
"""The first character of the scripts without spaces between words: a line can break anywhere in them."""
_BREAKABLE = re.compile(rf"[^{_WIDE}-\U0010ffff]+|[{_WIDE}-\U0010ffff]")


def width_of(stream: TextIO) -> int | None:
    """The width of a stream's terminal in columns; None if it is not a terminal."""
    if not stream.isatty():
        return None
    columns = 0
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        with contextlib.suppress(ValueError, OSError):
            columns = os.get_terminal_size(stream.fileno()).columns
    return max(columns or 80, _LEAST)


def filled(text: str, width: int | None, *, indent: str = "", first: str | None = None) -> str:
    """A paragraph wrapped to a width at word boundaries; unchanged without a width.

    Args:
        text: The paragraph.
        width: The width in columns.
        indent: The prefix of each line but the first.
        first: The prefix of the first line; `indent` by default.
    """
    first = indent if first is None else first
    if width is None:
        return first + text
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


class WordWrap:
    """Wraps a text that arrives in pieces at word boundaries. Each piece is shown at once.

    A word whose last piece does not fit is erased and moved to the next line. Fenced code (```) and words longer than a
    line are left to the terminal.

    Args:
        width: Returns the width in columns; called at the start of each line, since a window can be resized.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        from rich.cells import cell_len  # only terminals need it

        self._measure = cell_len
        self._ask_width = width
        self._width = width()
        self._space = ""
        """The space after the last word; dropped at the end of a line."""
        self._word = ""
        self._word_cells = 0
        self._column = 0
        self._line = ""
        """The start of the line as the model wrote it, long enough to detect a fence."""
        self._code = False

    def feed(self, text: str) -> str:
        """What to write after receiving a piece."""
        return "".join(map(self._shown, _PIECES.findall(text)))

    def flush(self) -> str:
        """The buffered trailing space."""
        space, self._space = self._space, ""
        return space if self._column + len(space) < self._width else ""

    def _shown(self, piece: str) -> str:
        if piece == "\n":
            if _FENCE.match(self._line):
                self._code = not self._code
            space = self.flush()
            self._line, self._word, self._word_cells, self._column = "", "", 0, 0
            self._width = self._ask_width()
            return space + piece
        if len(self._line) < _LONGEST_FENCE:
            self._line += piece
        if self._code:
            return piece
        if piece.isspace():
            self._space += piece
            self._word, self._word_cells = "", 0
            return ""
        if max(piece) < _WIDE:
            return self._added(piece)
        return "".join(map(self._added, _BREAKABLE.findall(piece)))

    def _added(self, part: str) -> str:
        cells = self._measure(part)
        before = ""
        if part[0] >= _WIDE or self._space or not self._word:  # a line can break here
            space, self._space = self._space, ""
            across = self._measure(space.expandtabs(8))
            self._word, self._word_cells = "", 0
            if self._column and self._column + across + cells > self._width:
                before, self._column = "\n", 0
            else:
                before = space
                self._column += across
        elif self._column + cells > self._width and self._column > self._word_cells:
            before = f"\x1b[{self._word_cells}D\x1b[K\n{self._word}"
            self._column = self._word_cells
        self._word = "" if part[0] >= _WIDE else self._word + part
        self._word_cells = 0 if part[0] >= _WIDE else self._word_cells + cells
        self._column += cells
        if self._column > self._width:
            self._column = self._column % self._width
        return before + part
