"""Text for a terminal, broken between words: lines that are known, and an answer that comes piece by piece."""

from __future__ import annotations

import contextlib
import os
import re
import textwrap
from collections.abc import Callable
from typing import TextIO

__all__ = ["WordWrap", "filled", "width_of"]

_LEAST = 20
"""Columns: where a terminal has fewer, or says so wrongly, lines are as if it had these."""
_FENCE = re.compile(r"\s*(```|~~~)")
_PIECES = re.compile(r"\n|[^\S\n]+|\S+")


def width_of(stream: TextIO) -> int | None:
    """How many columns the terminal at a stream has; None when there is no terminal."""
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
    """A paragraph in lines of that width, no word cut; as it is when there is no width.

    Args:
        text: The paragraph.
        width: Columns.
        indent: What each line but the first begins with.
        first: What the first line begins with; `indent` by default.
    """
    first = indent if first is None else first
    if width is None:
        return first + text
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


class WordWrap:
    """Breaks a text that comes in pieces into lines between words. A word is held back until it is complete.

    Code between fences (```), and words that are longer than a line, are left to the terminal.

    Args:
        width: Gives the columns; asked at the beginning of each line, since a window can be resized.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        from rich.cells import cell_len  # only terminals need it

        self._measure = cell_len
        self._ask_width = width
        self._width = width()
        self._word = ""
        self._space = ""
        self._column = 0
        self._line = ""
        """The beginning of the line as the model wrote it, as far as a fence can be seen in it."""
        self._code = False

    def feed(self, text: str) -> str:
        """What to write now that this has come."""
        out: list[str] = []
        for piece in _PIECES.findall(text):
            if piece == "\n":
                out.append(self._take_word() + self._space)
                self._space = ""
                if _FENCE.match(self._line):
                    self._code = not self._code
                self._line, self._column, self._width = "", 0, self._ask_width()
                out.append("\n")
                continue
            if len(self._line) < 80:
                self._line += piece
            if self._code:
                out.append(piece)
            elif piece.isspace():
                out.append(self._take_word())
                self._space += piece
            else:
                self._add(piece, out)
        return "".join(out)

    def flush(self) -> str:
        """What is still held back."""
        rest = self._take_word() + self._space
        self._space = ""
        return rest

    def _add(self, piece: str, out: list[str]) -> None:
        start = 0
        for index, letter in enumerate(piece):
            if letter > "\u2e7f" and self._measure(letter) == 2:  # writing without spaces breaks anywhere
                self._word += piece[start : index + 1]
                out.append(self._take_word())
                start = index + 1
        self._word += piece[start:]
        if self._measure(self._word) >= self._width:
            out.append(self._take_word())

    def _take_word(self) -> str:
        word, self._word = self._word, ""
        if not word:
            return ""
        space, self._space = self._space, ""
        length = self._measure(word)
        after = self._column + self._measure(space.expandtabs(8)) + length
        if self._column and after > self._width:
            self._column = length
            return "\n" + word
        self._column = after if after <= self._width else after % self._width
        return space + word
