"""How the commands write: answers as they come, tables, JSON, and lines about what happens.

Standard output carries what was asked for, standard error all else. Styles only where a terminal is at the other end
and NO_COLOR is not set.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from namel3ss_ollama import LLMResponse, StreamChunk

__all__ = [
    "AnswerPrinter",
    "CommandError",
    "checked_arguments",
    "fail",
    "human_size",
    "note",
    "print_json",
    "print_table",
    "stats_line",
    "styled",
]

_DIM, _BOLD, _RED, _YELLOW, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[0m"
STYLES = {"dim": _DIM, "bold": _BOLD, "red": _RED, "yellow": _YELLOW}
_CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Signs that move a terminal's cursor, set its title or worse: a model's words are not to do that."""


class CommandError(Exception):
    """What ends a command with exit code 1; its text is the line to print."""


@contextlib.contextmanager
def checked_arguments() -> Iterator[None]:
    """Around the calls that check what the user gave: what they refuse is the user's to mend, no bug."""
    try:
        yield
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise CommandError(str(error)) from error


def styled(text: str, style: str, stream: TextIO) -> str:
    """The text in that style, if the stream is a terminal that shall have styles."""
    plain = not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"{STYLES[style]}{text}{_PLAIN}"


def note(text: str, style: str = "dim") -> None:
    """A line about what happens."""
    print(styled(text, style, sys.stderr), file=sys.stderr, flush=True)


def fail(text: str) -> None:
    """The line about what went wrong."""
    print(f"{styled('error:', 'red', sys.stderr)} {' '.join(text.split())}", file=sys.stderr, flush=True)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """A value as JSON; with `indent=None` on one line, and out at once."""
    print(json.dumps(value, ensure_ascii=False, indent=indent, default=str), flush=indent is None)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows in columns, never cut: what is piped on must be whole."""
    table = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for index, row in enumerate(table):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line if index else styled(line, "bold", sys.stdout))


def human_size(size: object) -> str:
    """Bytes, as people read them."""
    if not isinstance(size, (int, float)):
        return "?"
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def stats_line(response: LLMResponse) -> str:
    """Tokens, speed and waiting of an answer, as far as they are known."""
    usage, measured = response.usage, response.metadata
    parts = [f"{usage['completion_tokens']} tokens"] if response.finish_reason else ["stopped"]
    if rate := measured.get("tokens_per_second"):
        parts.append(f"{rate:.1f} tokens/s")
    if (first := measured.get("time_to_first_token")) is not None:
        parts.append(f"first token after {first:.2f} s")
    if prompt := usage["prompt_tokens"]:
        parts.append(f"prompt {prompt} tokens")
    return ", ".join(parts)


class AnswerPrinter:
    """Writes an answer as it comes: its text to standard output, its reasoning to standard error."""

    def __init__(self) -> None:
        self._clean = sys.stdout.isatty()
        self._column = 0  # of the text: 0 at the beginning of a line
        self._thinking = False

    def show(self, chunk: StreamChunk) -> None:
        """Write what a chunk brings."""
        if chunk.thinking:
            self._thinking = True
            thought = chunk.thinking.translate(_CONTROL) if sys.stderr.isatty() else chunk.thinking
            self._write(styled(thought, "dim", sys.stderr), sys.stderr)
        if chunk.content:
            if self._thinking:
                self._end_thinking()
            text = chunk.content.translate(_CONTROL) if self._clean else chunk.content
            self._column = 0 if text.endswith("\n") else self._column + len(text)
            self._write(text, sys.stdout)

    def end(self) -> None:
        """The answer is over, or broken off: whatever comes next begins on a line of its own."""
        if self._thinking:
            self._end_thinking()
        if self._column:
            self._column = 0
            self._write("\n", sys.stdout)

    def _end_thinking(self) -> None:
        self._thinking = False
        self._write("\n\n", sys.stderr)

    def _write(self, text: str, stream: TextIO) -> None:
        stream.write(text)
        stream.flush()
