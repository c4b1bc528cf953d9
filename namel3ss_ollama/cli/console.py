"""Output of the commands: streamed answers, tables, JSON, and status lines.

Results go to standard output, everything else to standard error. Styles are used on a terminal unless NO_COLOR is set,
and elsewhere if FORCE_COLOR is set; on a terminal, lines wrap at word boundaries.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from namel3ss_ollama import LLMResponse, StreamChunk
from namel3ss_ollama.cli.wording import in_the_commands_words
from namel3ss_ollama.cli.wrapping import WordWrap, filled, width_of

__all__ = [
    "AnswerPrinter",
    "CommandError",
    "UsageError",
    "checked_arguments",
    "fail",
    "human_size",
    "note",
    "print_json",
    "print_paragraph",
    "print_table",
    "show_warnings",
    "shown_progress",
    "stats_line",
    "styled",
    "without_warnings",
]

_DIM, _BOLD, _RED, _YELLOW, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[0m"
STYLES = {"dim": _DIM, "bold": _BOLD, "red": _RED, "yellow": _YELLOW}
_CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters that move a terminal's cursor, set its title or worse; removed from a model's output."""


class CommandError(Exception):
    """Ends a command with exit code 1; the message is the line to print."""


class UsageError(CommandError):
    """The user's input is invalid: exit code 2."""


@contextlib.contextmanager
def checked_arguments(kind: type[CommandError] = UsageError) -> Iterator[None]:
    """Wrap calls that validate user input: an error there is a usage error, not a bug."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(in_the_commands_words(str(error))) from error
    except (TypeError, ValueError) as error:
        raise kind(in_the_commands_words(str(error))) from error


def styled(text: str, style: str, stream: TextIO) -> str:
    """The text in that style, if the stream supports styles."""
    if os.environ.get("NO_COLOR"):
        wanted = False
    elif os.environ.get("FORCE_COLOR"):
        wanted = True
    else:
        wanted = stream.isatty() and os.environ.get("TERM") != "dumb"
    return f"{STYLES[style]}{text}{_PLAIN}" if wanted else text


class _Warnings(logging.Handler):
    """Prints the core's warnings as lines of the command."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, with Python names replaced by command-line ones."""
        note(f"warning: {in_the_commands_words(record.getMessage())}", "yellow")


def show_warnings() -> None:
    """Show the core's warnings in the command's style from now on."""
    logger = logging.getLogger("namel3ss_ollama")
    if not any(isinstance(handler, _Warnings) for handler in logger.handlers):
        logger.addHandler(_Warnings(logging.WARNING))


class _Progress(logging.Handler):
    """Prints a batch's progress as lines of the command; ignores the core's other logs of that level."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, if it is progress."""
        if record.levelno == logging.INFO and str(record.msg).startswith("batch: "):
            note(record.getMessage().removeprefix("batch: "))


@contextlib.contextmanager
def shown_progress() -> Iterator[None]:
    """Show a batch's progress from the core's log if there is no terminal for a bar."""
    logger = logging.getLogger("namel3ss_ollama")
    handler, before = _Progress(logging.INFO), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress warnings about what the command reports in another way."""
    logger = logging.getLogger("namel3ss_ollama")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def note(text: str, style: str = "dim", *, first: str = "", indent: str = "") -> None:
    """Print a status line; `first` and `indent` are the prefixes of its lines."""
    print(styled(filled(text, width_of(sys.stderr), first=first, indent=indent), style, sys.stderr), file=sys.stderr)
    sys.stderr.flush()


def fail(text: str) -> None:
    """Print the error line."""
    what = filled(" ".join(text.split()), width_of(sys.stderr), first="error: ")
    print(what.replace("error:", styled("error:", "red", sys.stderr), 1), file=sys.stderr, flush=True)


def print_paragraph(text: str, *, indent: str = "", first: str | None = None, style: str = "") -> None:
    """Print a paragraph to standard output; `style` applies to the prefix of the first line."""
    first = indent if first is None else first
    paragraph = filled(text, width_of(sys.stdout), indent=indent, first=first)
    if style:
        paragraph = styled(first.rstrip(), style, sys.stdout) + paragraph[len(first.rstrip()) :]
    print(paragraph, flush=True)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON; with `indent=None` on one line, flushed at once."""
    print(json.dumps(value, ensure_ascii=False, indent=indent, default=str), flush=indent is None)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns, never truncated, so that pipes get everything. A narrow terminal gets a list per row."""
    rows = list(rows)
    table = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    across = width_of(sys.stdout)
    if across is not None and sum(widths) + 2 * (len(widths) - 1) > across:
        label = max(map(len, head[1:]))
        for name, *cells in rows:
            print(styled(name, "bold", sys.stdout))
            for what, cell in zip(head[1:], cells, strict=True):
                print(f"  {what.lower():{label}}  {cell}")
        return
    for index, row in enumerate(table):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line if index else styled(line, "bold", sys.stdout))


def human_size(size: object) -> str:
    """A number of bytes in a readable unit."""
    if not isinstance(size, (int, float)):
        return "?"
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def stats_line(response: LLMResponse) -> str:
    """The tokens, speed and latency of an answer, as far as known."""
    usage, measured = response.usage, response.metadata
    parts = [f"{usage['completion_tokens']} tokens"] if response.finish_reason else ["stopped"]
    if rate := measured.get("tokens_per_second"):
        parts.append(f"{rate:.1f} tokens/s")
    if (first := measured.get("time_to_first_token")) is not None:
        parts.append(f"first token after {first:.2f} s")
    if prompt := usage["prompt_tokens"]:
        cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
        parts.append(f"prompt {prompt} tokens{cached}")
    return ", ".join(parts)


class AnswerPrinter:
    """Writes a streamed answer: its text to standard output, its reasoning to standard error."""

    def __init__(self) -> None:
        self._text = _Outlet(sys.stdout)
        self._thoughts = _Outlet(sys.stderr, "dim")

    def show(self, chunk: StreamChunk) -> None:
        """Write a chunk."""
        if chunk.thinking:
            self._thoughts.write(chunk.thinking)
        if chunk.content:
            self._thoughts.end("\n\n")
            self._text.write(chunk.content)

    def end(self) -> None:
        """End the answer, complete or not: further output starts on a new line."""
        self._thoughts.end("\n\n")
        self._text.end("\n")


class _Outlet:
    """One of the streams that an answer goes to."""

    def __init__(self, stream: TextIO, style: str = "") -> None:
        self._stream = stream
        self._style = style
        self._is_terminal = stream.isatty()
        self._wrap: WordWrap | None = None
        self._open = False
        self._at_line_start = True

    def write(self, text: str) -> None:
        if self._is_terminal:
            if self._wrap is None:
                self._wrap = WordWrap(lambda: width_of(self._stream) or 80)
            text = self._wrap.feed(text.translate(_CONTROL))
        self._open = True
        self._put(text)

    def end(self, line_end: str) -> None:
        """Write the buffered text and a line end: an empty line after reasoning, a newline after text if needed."""
        if not self._open:
            return
        self._open = False
        if self._wrap is not None:
            self._put(self._wrap.flush())
            self._wrap = None
        if self._style or not self._at_line_start:
            self._put(line_end, plain=True)

    def _put(self, text: str, *, plain: bool = False) -> None:
        if text:
            self._at_line_start = text.endswith("\n")
            self._stream.write(styled(text, self._style, self._stream) if self._style and not plain else text)
            self._stream.flush()
