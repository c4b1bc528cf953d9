"""The progress of a batch: counted here, shown as a progress bar or passed to a callback."""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["BatchProgress", "HostShare", "OnProgress", "Tally", "shown"]

logger = logging.getLogger("namel3ss_ollama")
_EVERY = 0.1
"""Seconds between two reports to a callback."""
_LOGGED_EVERY = 10.0
"""Seconds between two lines in a log."""


@dataclass(slots=True)
class HostShare:
    """One host's share of a batch.

    Attributes:
        rows: Rows that it answered.
        tokens: Their prompt and answer tokens.
    """

    rows: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """The progress of a batch.

    Attributes:
        total: The number of rows; None if unknown.
        answered: Rows that were answered in this run.
        failed: Rows that failed in this run.
        skipped: Rows that the journal already has.
        tokens: Prompt and answer tokens of this run.
        seconds: The time since the run began.
    """

    total: int | None
    answered: int
    failed: int
    skipped: int
    tokens: int
    seconds: float

    @property
    def done(self) -> int:
        """Rows that are answered, failed or skipped."""
        return self.answered + self.failed + self.skipped

    @property
    def rows_per_second(self) -> float:
        """Rows answered or failed per second; skipped rows do not count."""
        return (self.answered + self.failed) / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The estimated remaining time in seconds; None if unknown."""
        if self.total is None or not self.rows_per_second:
            return None
        return max(self.total - self.done, 0) / self.rows_per_second

    def __str__(self) -> str:
        of = f" of {self.total:,}" if self.total is not None else ""
        left = f", {_clock(self.seconds_left)} left" if self.seconds_left is not None else ""
        return (
            f"{self.done:,}{of} rows, {self.rows_per_second:,.1f} rows/s, {self.tokens_per_second:,.0f} tokens/s, "
            f"{self.failed:,} failed{left}"
        )


OnProgress = Callable[[BatchProgress], None]


@dataclass(slots=True)
class Tally:
    """A batch's counts, and the callback that shows them.

    Attributes:
        total: The number of rows; None if unknown.
        show: Called with the progress, at most every tenth of a second, and at the end.
    """

    total: int | None
    show: OnProgress | None
    answered: int = 0
    failed: int = 0
    skipped: int = 0
    tokens: int = 0
    by_host: dict[str, HostShare] = field(default_factory=dict[str, HostShare])
    began: float = field(default_factory=time.monotonic)
    _shown: float = 0.0

    def add(self, *, failed: bool, host: str, tokens: int) -> None:
        """Count a row that was sent."""
        if failed:
            self.failed += 1
        else:
            self.answered += 1
        self.tokens += tokens
        if host:
            share = self.by_host.get(host)
            if share is None:
                share = self.by_host[host] = HostShare()
            share.rows += 1
            share.tokens += tokens
        self.report()

    def skip(self) -> None:
        """Count a row that was skipped."""
        self.skipped += 1
        self.report()

    def report(self, *, last: bool = False) -> None:
        """Call `show` if it is due."""
        if self.show is not None and (last or time.monotonic() - self._shown >= _EVERY):
            self._shown = time.monotonic()
            self.show(self.progress())

    def progress(self) -> BatchProgress:
        """The current progress."""
        seconds = time.monotonic() - self.began
        return BatchProgress(self.total, self.answered, self.failed, self.skipped, self.tokens, seconds)


@contextmanager
def shown(progress: bool | OnProgress) -> Iterator[OnProgress | None]:
    """The function that shows progress: a given callback; for True a bar on standard error, or log lines.

    The bar needs a terminal and rich. Otherwise a line is logged every ten seconds.
    """
    if not progress:
        yield None
    elif progress is not True:
        yield progress
    elif sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        with _bar() as show:
            yield show
    else:
        yield _logged()


@contextmanager
def _bar() -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    with Progress(SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)

        def show(progress: BatchProgress) -> None:
            bar.update(task, description=str(progress), total=progress.total, completed=progress.done)

        yield show


def _logged() -> OnProgress:
    said = time.monotonic()

    def show(progress: BatchProgress) -> None:
        nonlocal said
        if time.monotonic() - said >= _LOGGED_EVERY:
            said = time.monotonic()
            logger.info("batch: %s", progress)

    return show


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
