"""A batch with a journal: each prompt or text is looked up before it is sent, and each answer is written as it arrives.

A kill costs only the requests in flight. A failure that no row causes (no such model, a wrong key, no connection) ends
the batch; the same call resumes it.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Collection, Iterable, Iterator, Sized
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from namel3ss_ollama.batch import OnResult, run_batch
from namel3ss_ollama.errors import (
    AuthenticationError,
    JournalError,
    LLMConnectionError,
    LLMError,
    ModelNotFoundError,
    QuotaExceededError,
)
from namel3ss_ollama.formats import ParseAs, parsed
from namel3ss_ollama.journal import Known, RowStore, opened, read_rows
from namel3ss_ollama.limiter import patiently
from namel3ss_ollama.progress import HostShare, OnProgress, Tally, shown
from namel3ss_ollama.rows import BatchRow, Outcome, RowId, State
from namel3ss_ollama.types import EmbedResponse, LLMResponse

__all__ = [
    "BatchReport",
    "JournalSettings",
    "OnChange",
    "Question",
    "RetryFailed",
    "answer_rows",
    "check_ids",
    "embed_rows",
]

T = TypeVar("T")
Q = TypeVar("Q")
OnChange = Literal["ask", "error"]
RetryFailed = bool | Literal["all"]
_NO_ROWS_FAULT = (AuthenticationError, ModelNotFoundError, QuotaExceededError)
_FEWEST_LOST = 20
"""A batch ends when this many rows in a row, or as many as are in flight, fail because of the connection."""
_BREATH = 200
"""After this many skipped rows, the event loop's other tasks get a turn."""


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """How a batch uses its journal.

    Attributes:
        path: The file, or a store used in its place.
        retry_failed: Whether rows with a temporary failure are retried; "all": rows with any failure.
        on_change: What to do with a row whose request has changed since an earlier run.
        progress: Whether to show progress, or a callback that does.
    """

    path: str | os.PathLike[str] | RowStore
    retry_failed: RetryFailed = True
    on_change: OnChange = "ask"
    progress: bool | OnProgress = False

    def __post_init__(self) -> None:
        if self.retry_failed not in (True, False, "all"):
            raise ValueError(f"retry_failed: {self.retry_failed!r} is not one of True, False, 'all'")
        if self.on_change not in ("ask", "error"):
            raise ValueError(f"on_change: {self.on_change!r} is not one of 'ask', 'error'")
        if not (isinstance(self.progress, bool) or callable(self.progress)):
            raise TypeError(f"progress: expected True, False or a callback, not {self.progress!r:.60}")


@dataclass(frozen=True, slots=True, repr=False)
class Question(Generic[Q]):
    """The request for a row.

    Attributes:
        ask: The request.
        fingerprint: Identifies the request: differs where the answer may differ.
    """

    ask: Q
    fingerprint: bytes


@dataclass(frozen=True, slots=True, repr=False)
class BatchReport:
    """The outcome of a batch with a journal.

    Attributes:
        path: The journal.
        answered: Rows that were answered in this run.
        failed: Rows that failed in this run.
        skipped: Rows that the journal already had: answers, and permanent failures.
        failed_before: How many of the skipped rows are failures.
        tokens: Prompt and answer tokens of this run.
        seconds: The duration of this run.
        by_host: Each host's share of this run, by address.
    """

    path: str
    answered: int
    failed: int
    skipped: int
    failed_before: int
    tokens: int
    seconds: float
    by_host: dict[str, HostShare]
    _run: int
    _parse_as: ParseAs | None = None

    def rows(self) -> Iterator[BatchRow]:
        """Iterate over the rows of the batch in input order, including those of earlier runs, reading them from disk.

        Raises:
            JournalError: The journal cannot be read.
            OutputValidationError: An answer does not validate against the type given as `format`.
        """
        for row in read_rows(self.path, self._run):
            if self._parse_as is not None and row.answer is not None and not row.answer.tool_calls:
                row.answer.parsed = parsed(self._parse_as, row.answer)
            yield row

    def __repr__(self) -> str:
        return (
            f"BatchReport(answered={self.answered}, failed={self.failed}, skipped={self.skipped}, "
            f"failed_before={self.failed_before}, tokens={self.tokens}, seconds={self.seconds:.1f})"
        )


@dataclass(slots=True)
class _Row(Generic[Q]):
    id: RowId
    index: int
    question: Question[Q]


@dataclass(slots=True)
class _Run(Generic[Q]):
    """One run of a batch.

    Attributes:
        journal: Where rows are looked up and written.
        settings: The caller's.
        tally: The counts.
        on_result: The caller's.
        most_lost: How many rows in a row may fail because of the connection.
        under_way: The rows in flight.
        failed_before: Failures that the journal had and that are kept.
        lost: How many rows in a row have failed because of the connection.
    """

    journal: RowStore
    settings: JournalSettings
    tally: Tally
    on_result: OnResult | None
    most_lost: int
    under_way: set[RowId] = field(default_factory=set[RowId])
    failed_before: int = 0
    lost: int = 0

    async def rows(
        self,
        items: Iterable[T] | AsyncIterable[T],
        ids: Iterable[RowId] | None,
        question: Callable[[T], Awaitable[Question[Q]]],
    ) -> AsyncGenerator[_Row[Q], None]:
        """The rows that need a request; the others are counted and marked.

        Raises:
            ValueError: An id repeats, or the number of ids is not that of the rows.
            JournalError: A row's request has changed, and `on_change` is "error".
        """
        async with aclosing(_with_ids(items, ids)) as numbered:
            async for index, id, item in numbered:
                known = self.journal.find(id)
                if id in self.under_way or (known is not None and known.run == self.journal.run):
                    raise ValueError(f"ids: {id!r} is there twice, the second time at row {index}")
                try:
                    asked = await question(item)
                except (TypeError, ValueError) as error:
                    await self.failed(id, index, None, error, 0.0)
                    continue
                if known is not None and self._is_kept(known, asked.fingerprint, id):
                    self.journal.mark(id, index)
                    self.failed_before += known.state is not State.ANSWERED
                    self.tally.skip()
                    if self.tally.skipped % _BREATH == 0:
                        await asyncio.sleep(0)
                    continue
                self.under_way.add(id)
                yield _Row(id, index, asked)

    def _is_kept(self, known: Known, fingerprint: bytes, id: RowId) -> bool:
        """Whether the journal's result for a row is kept."""
        if known.fingerprint != fingerprint:
            if self.settings.on_change == "error" and known.fingerprint is not None:
                raise JournalError(
                    f"journal: the request of row {id!r} in {self.journal.path} has changed (the prompt, an "
                    'option or the model); pass on_change="ask" to ask again, or name another file'
                )
            return False
        again = self.settings.retry_failed
        return known.state is State.ANSWERED or not (again == "all" or (again and known.state is State.PASSING))

    async def answered(self, row: _Row[Q], outcome: Outcome, result: object) -> None:
        """Write an answer and report it."""
        self.lost = 0
        await self._done(row.id, row.index, row.question.fingerprint, outcome, result)

    async def failed(
        self, id: RowId, index: int, fingerprint: bytes | None, error: Exception, seconds: float
    ) -> Outcome:
        """Write a failure and report it.

        Raises:
            LLMError: The failure is not caused by the row, so other rows would fail as well.
        """
        if isinstance(error, LLMError):
            error.prompt_index = index
        if isinstance(error, _NO_ROWS_FAULT):
            raise error
        outcome = Outcome.failed(error, seconds)
        await self._done(id, index, fingerprint, outcome, error)
        self.lost = self.lost + 1 if isinstance(error, LLMConnectionError) else 0
        if self.lost >= self.most_lost:
            raise error
        return outcome

    async def _done(self, id: RowId, index: int, fingerprint: bytes | None, outcome: Outcome, result: object) -> None:
        self.journal.record(id, index, fingerprint, outcome)
        self.under_way.discard(id)
        self.tally.add(failed=outcome.state is not State.ANSWERED, host=outcome.host, tokens=outcome.tokens)
        if self.on_result is not None:
            pending = self.on_result(index, result)
            if inspect.isawaitable(pending):
                await pending

    def report(self, parse_as: ParseAs | None) -> BatchReport:
        """The outcome so far."""
        tally = self.tally
        return BatchReport(
            str(self.journal.path),
            tally.answered,
            tally.failed,
            tally.skipped,
            self.failed_before,
            tally.tokens,
            time.monotonic() - tally.began,
            tally.by_host,
            self.journal.run,
            parse_as,
        )


async def answer_rows(
    prompts: Iterable[T] | AsyncIterable[T],
    ids: Iterable[RowId] | None,
    settings: JournalSettings,
    *,
    model: str,
    question: Callable[[T], Awaitable[Question[Q]]],
    complete: Callable[[Q], Awaitable[LLMResponse]],
    alike: bool,
    parse_as: ParseAs | None,
    workers: int,
    on_result: OnResult | None,
) -> BatchReport:
    """Ask the prompts for which the journal has no answer.

    Args:
        prompts: The prompts, consumed as slots become free.
        ids: An id for each prompt; its position by default.
        settings: The journal's.
        model: The model that is asked.
        question: Builds the request for a prompt.
        complete: Sends it.
        alike: Whether equal requests get equal answers, so that each is sent once.
        parse_as: The type that the answers are validated against.
        workers: How many requests run concurrently.
        on_result: As in `run_batch`; not called for skipped rows.
    """
    leaders: dict[bytes, asyncio.Future[tuple[Outcome, object]]] = {}

    async def ask(run: _Run[Q], row: _Row[Q]) -> tuple[Outcome, object]:
        began = time.monotonic()
        try:
            with patiently():
                response = await complete(row.question.ask)
        except (LLMError, TypeError, ValueError) as error:
            seconds = time.monotonic() - began
            return await run.failed(row.id, row.index, row.question.fingerprint, error, seconds), error
        outcome = Outcome.answered(response, time.monotonic() - began)
        await run.answered(row, outcome, response)
        return outcome, response

    async def ask_once(run: _Run[Q], row: _Row[Q]) -> None:
        """Ask, unless the answer is known or an equal request is in flight."""
        same = row.question.fingerprint
        if not alike:
            await ask(run, row)
        elif (leader := leaders.get(same)) is not None:
            outcome, result = await leader
            await run.answered(row, Outcome(outcome.state, outcome.content, outcome.host), result)
        elif (known := run.journal.equal(same)) is not None:
            await run.answered(row, known, known.row(row.id, row.index, vectors=False).answer)
        else:
            leaders[same] = asyncio.get_running_loop().create_future()
            try:
                leaders[same].set_result(await ask(run, row))
            finally:
                leaders.pop(same).cancel()  # no effect once there is a result

    with opened(settings.path, "answers", model, find_equal=alike) as journal:
        return await _run(journal, prompts, ids, settings, question, ask_once, workers, on_result, parse_as)


async def embed_rows(
    texts: Iterable[str] | AsyncIterable[str],
    ids: Iterable[RowId] | None,
    settings: JournalSettings,
    *,
    model: str,
    fingerprint: Callable[[str], bytes],
    embed: Callable[[list[str]], Awaitable[EmbedResponse]],
    batch_size: int,
    workers: int,
) -> BatchReport:
    """Embed the texts for which the journal has no vector; arguments as in `answer_rows`."""

    async def question(text: object) -> Question[str]:
        if not isinstance(text, str):
            raise TypeError(f"expected text, not {type(text).__name__}")
        return Question(text, fingerprint(text))

    async def ask(run: _Run[str], rows: list[_Row[str]]) -> None:
        left = list(rows)
        while left:
            began = time.monotonic()
            try:
                with patiently():
                    response = await embed([row.question.ask for row in left])
            except LLMError as error:
                seconds = time.monotonic() - began
                # Where one text is at fault, the others are sent again without it.
                at_fault, left = (left, []) if error.index is None else ([left.pop(error.index)], left)
                for row in at_fault:
                    await run.failed(row.id, row.index, row.question.fingerprint, error, seconds)
                continue
            seconds = time.monotonic() - began
            share, rest = divmod(response.usage.total_tokens, len(left))
            for number, (row, vector) in enumerate(zip(left, response.embeddings, strict=True)):
                tokens = share + (number < rest)
                await run.answered(row, Outcome.embedded(vector, response.host, tokens, seconds), vector)
            return

    with opened(settings.path, "vectors", model) as journal:
        return await _run(journal, texts, ids, settings, question, ask, workers, None, None, size=batch_size)


async def _run(
    journal: RowStore,
    items: Iterable[T] | AsyncIterable[T],
    ids: Iterable[RowId] | None,
    settings: JournalSettings,
    question: Callable[[T], Awaitable[Question[Q]]],
    ask: Callable[[_Run[Q], Any], Awaitable[None]],
    workers: int,
    on_result: OnResult | None,
    parse_as: ParseAs | None,
    *,
    size: int | None = None,
) -> BatchReport:
    """Ask the remaining rows, one by one or `size` at a time, and count."""
    with shown(settings.progress) as show:
        tally = Tally(len(items) if isinstance(items, Sized) else None, show)
        run: _Run[Q] = _Run(journal, settings, tally, on_result, max(_FEWEST_LOST, workers))
        async with aclosing(run.rows(items, ids, question)) as rows:
            source: AsyncGenerator[Any, None] = rows if size is None else _together(rows, size)
            async with aclosing(source):
                await run_batch(
                    source,
                    lambda item: ask(run, item),
                    workers=workers,
                    return_exceptions=False,
                    on_result=None,
                    keep_results=False,
                )
        tally.report(last=True)
        return run.report(parse_as)


def check_ids(items: object, ids: Iterable[RowId] | None) -> None:
    """Check ids as far as possible without consuming an iterator.

    Raises:
        TypeError, ValueError: Their number is not that of the rows, or one repeats.
    """
    if isinstance(ids, str):
        raise TypeError("ids: expected several ids, not one text")
    if not isinstance(ids, Collection):
        return
    if isinstance(items, Sized) and len(items) != len(ids):
        raise ValueError(f"ids: there are {len(ids):,} for {len(items):,} rows")
    seen: set[RowId] = set()
    for index, id in enumerate(ids):
        if _checked_id(id, index) in seen:
            raise ValueError(f"ids: {id!r} is there twice, the second time at row {index}")
        seen.add(id)


def _checked_id(id: object, index: int) -> RowId:
    if isinstance(id, bool) or not isinstance(id, (str, int)):
        raise TypeError(f"ids: expected text or an integer at row {index}, not {id!r:.60}")
    if isinstance(id, int) and not -(2**63) <= id < 2**63:
        raise ValueError(f"ids: {id} at row {index} has more than 64 bits; give it as text")
    return id


async def _with_ids(
    items: Iterable[T] | AsyncIterable[T], ids: Iterable[RowId] | None
) -> AsyncGenerator[tuple[int, RowId, T], None]:
    """Position, id and item of each row."""
    index = 0
    numbers = None if ids is None else iter(ids)
    async with aclosing(_drawn(items)) as drawn:
        async for item in drawn:
            id: RowId = index
            if numbers is not None:
                try:
                    id = _checked_id(next(numbers), index)
                except StopIteration:
                    raise ValueError(f"ids: there are {index:,}, and more rows") from None
            yield index, id, item
            index += 1
    if numbers is not None and next(numbers, None) is not None:
        raise ValueError(f"ids: there are more than the {index:,} rows")


async def _drawn(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _together(rows: AsyncGenerator[_Row[Q], None], size: int) -> AsyncGenerator[list[_Row[Q]], None]:
    """Rows in lists of `size`."""
    several: list[_Row[Q]] = []
    async for row in rows:
        several.append(row)
        if len(several) == size:
            yield several
            several = []
    if several:
        yield several
