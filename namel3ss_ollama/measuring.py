"""Measuring a server for `provider.tune`: a number of requests in flight for a fixed time, within a total budget.

One worker per request sends the next one as soon as it has its answer. After some seconds the requests in flight are
cancelled, so that a measurement takes as long as planned on a slow server, too; tokens of incomplete answers count. A
first answer determines the duration of a measurement and the length of the answers.

The number of requests is doubled until that gains nothing. If requests waited on the server, their waits reveal how
many slots it has, and that number is measured as well. Then all numbers that may be the best are measured again, as
often as there is time, so that other load on the machine affects all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any, Protocol, TypeVar

from namel3ss_ollama.errors import LLMError, LLMTimeoutError
from namel3ss_ollama.tuning import (
    AtOnce,
    Measured,
    WindowCost,
    advise,
    is_saturated,
    slots_of,
)
from namel3ss_ollama.types import LLMResponse, StreamChunk
from namel3ss_ollama.windows import Window

__all__ = ["Loaded", "OnTuneProgress", "Subject", "TuneProgress", "measure"]

T = TypeVar("T")
Json = dict[str, Any]
_RESERVE = 0.03
"""The part of the budget reserved for cancelling requests in flight."""
_CONCURRENCY = 0.6
"""The part of the time for the numbers of requests, if context windows are measured, too."""
_MEASUREMENTS = 12
"""How many measurements are planned for: six or seven numbers, and repetitions of the best ones."""
_LONGEST = 10.0
"""Seconds that one measurement takes, unless answers need longer."""
_ANSWERS, _FEWEST_ANSWERS = 6, 2
"""How many consecutive answers fit into one measurement; fewer if the budget is short."""
_FEWEST_TOKENS, _MOST_TOKENS = 8, 64
_FIRST_TOKENS = 16
_ROUNDS = 3
_EXTENSIONS = 3
"""How often a measurement may be extended until one answer is complete."""
_CONTENDS = 0.6
"""The part of the best throughput that makes a number of requests worth another measurement."""
_SHORTEST_LOAD = 0.1
"""Seconds: anything shorter is not a load."""
_PROMPT = (
    "{number}. Tell a long story about a keeper of a lighthouse on a small island, who finds a bottle with a map in "
    "it. Say what the weather is like, what the keeper has for breakfast, which tools are in the boat, who else lives "
    "on the island, and why nobody has looked for the place on the map before. Let the keeper row there alone, lose an "
    "oar on the way, and meet an old friend who has been looking for the same place for many years. Don't end the "
    "story before both are home again, and describe each of the days that it takes them."
)
"""Long enough to measure prompt evaluation. The number comes first, so that no prefix is cached."""
_READ_TOKENS = 50
"""The length of a prompt, in tokens, above which its time measures evaluation rather than overhead."""
_SHORT_PROMPT = "{number}. Tell a long story."
"""For servers so slow that a measurement would end before the first token."""


@dataclass(frozen=True, slots=True)
class TuneProgress:
    """The progress of `tune`.

    Attributes:
        fraction: The part of the budget that is spent, from 0 to 1. A measurement may need less than its budget.
        what: What is being measured.
    """

    fraction: float
    what: str

    def __str__(self) -> str:
        return f"{self.fraction:.0%}: {self.what}"


OnTuneProgress = Callable[[TuneProgress], object]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a server reports about a model.

    Attributes:
        is_loaded: Whether it is in memory.
        window: Its context windows.
        memory: Its size in memory, in bytes.
        gpu_memory: The part of it in GPU memory, in bytes.
    """

    is_loaded: bool
    window: Window
    memory: int | None = None
    gpu_memory: int | None = None


class Subject(Protocol):
    """What is measured: a model on a server."""

    def answer(self, prompt: str, tokens: int, num_ctx: int | None) -> contextlib.AbstractAsyncContextManager[Any]:
        """An answer, as an async context manager and iterator of chunks."""
        ...

    async def load(self, num_ctx: int | None) -> None:
        """Load the model."""
        ...

    async def look(self) -> Loaded:
        """What the server reports about the model."""
        ...


def _seconds(nanoseconds: object) -> float:
    return nanoseconds / 1e9 if isinstance(nanoseconds, (int, float)) else 0.0


async def measure(
    subject: Subject,
    *,
    budget: float,
    most: int,
    windows: Sequence[int] | None,
    asked: int | None = None,
    progress: OnTuneProgress | None = None,
) -> Measured:
    """Measure a model on a server within a budget of seconds; see `OllamaProvider.tune`."""
    return await _Measurement(subject, budget, most, progress).run(windows, asked)


class _TimeIsUp(Exception):
    """The time ran out."""


@dataclass(slots=True)
class _Samples:
    """The samples for a number of requests at once."""

    at_once: int
    seconds: float = 0.0
    tokens: int = 0
    first: list[float] = field(default_factory=list[float])
    without_first: list[float] = field(default_factory=list[float])
    """How long requests had waited for a token when they were cancelled."""
    gap: float = 0.0
    waits: list[float] = field(default_factory=list[float])
    services: list[float] = field(default_factory=list[float])
    reading: list[float] = field(default_factory=list[float])
    lengths: list[int] = field(default_factory=list[int])
    answers: int = 0
    failure: str = ""

    def row(self) -> AtOnce:
        """The samples as a row."""
        first = sorted(self.first)
        if first:  # a request without a token waited at least this long, which matters if it is long
            first = sorted([*first, *(waited for waited in self.without_first if waited > median(first))])
        return AtOnce(
            self.at_once,
            self.tokens / self.seconds if self.seconds else 0.0,
            median(first) if first else None,
            first[min(int(len(first) * 0.95), len(first) - 1)] if first else None,
            mean(self.waits) if self.waits else None,
            mean(self.services) if self.services else None,
            self.gap or None,
            median(self.reading) if self.reading else None,
            mean(self.lengths) if self.lengths else None,
            self.answers,
            self.failure,
        )

    def finished(self, response: LLMResponse) -> None:
        """Take in the durations of a complete answer."""
        reported = response.metadata
        total, load, reading, writing = (
            _seconds(reported.get(f"{part}_duration")) for part in ("total", "load", "prompt_eval", "eval")
        )
        self.answers += 1
        self.lengths.append(response.usage.completion_tokens)
        if total and reading + writing:
            self.waits.append(max(total - load - reading - writing, 0.0))
            self.services.append(reading + writing)
        counted = reported.get("prompt_eval_count")
        if reading and isinstance(counted, int) and counted >= _READ_TOKENS:
            self.reading.append(counted / reading)


class _Measurement:
    """One measurement of a server."""

    def __init__(self, subject: Subject, budget: float, most: int, progress: OnTuneProgress | None) -> None:
        self._subject = subject
        self._budget = budget
        self._most = most
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._end = self._began + budget * (1 - _RESERVE)
        self._asked = 0
        self._tokens = _FIRST_TOKENS
        self._prompt = _PROMPT
        self._seconds = 0.0
        self._load: float | None = None

    async def run(self, windows: Sequence[int] | None, asked: int | None) -> Measured:
        try:
            self._say("loading the model")
            before = await self._within(self._subject.look())
            await self._load_with(None, self._end, was_loaded=before.is_loaded)
            loaded = await self._within(self._subject.look())
        except _TimeIsUp:
            raise self._too_slow("the model was not loaded") from None
        in_force = asked or loaded.window.running or loaded.window.configured
        if in_force and loaded.window.trained:
            in_force = min(in_force, loaded.window.trained)
        candidates = _to_compare(in_force, loaded.window.trained) if windows is None else windows
        candidates = [one for one in candidates if one != in_force]
        await self._first_answer()
        rows = await self._numbers(share=_CONCURRENCY if candidates else 1.0)
        there = WindowCost(in_force, None, None, loaded.memory, loaded.gpu_memory)
        measured = Measured(tuple(rows), (there,), self._load, asked)
        at_once = advise(measured)[0].value
        assert isinstance(at_once, int)
        rate = next(row.tokens_per_second for row in rows if row.at_once == at_once)
        costs = [WindowCost(in_force, None, rate, loaded.memory, loaded.gpu_memory)]
        costs += await self._windows(candidates, at_once)
        self._say("done")
        return Measured(tuple(rows), tuple(costs), self._load, asked)

    # The numbers of requests

    async def _first_answer(self) -> None:
        """Ask for one answer, and plan by how long it takes."""
        self._say("1 answer")
        alone = _Samples(1)
        began = self._loop.time()
        try:
            await self._within(self._ask(alone, None), until=began + (self._end - began) / 4)
        except _TimeIsUp:
            if not alone.tokens:
                raise self._too_slow("too few tokens came for a measurement") from None
        taken = self._loop.time() - began
        first = alone.first[0] if alone.first else taken
        rate = alone.tokens / max(taken - first, 1e-3) if alone.tokens else 1.0
        left = self._end - self._loop.time()
        longest = min(left * _CONCURRENCY / _MEASUREMENTS, _LONGEST)
        fitting = rate * max(longest / _ANSWERS - first, first)  # generation should take at least as long as evaluation
        self._tokens = round(min(max(fitting, _FEWEST_TOKENS), _MOST_TOKENS))
        if first > longest / 2:
            self._prompt = _SHORT_PROMPT
        answer = first + self._tokens / rate
        self._seconds = min(max(min(longest, 2 * _ANSWERS * answer), _FEWEST_ANSWERS * answer), left / 8)

    async def _numbers(self, share: float) -> list[AtOnce]:
        """Measure numbers of requests at once, for a share of the remaining time."""
        until = self._loop.time() + (self._end - self._loop.time()) * share
        found: dict[int, _Samples] = {}

        async def take(number: int) -> bool:
            """Measure a number, if there is time for it."""
            if found and self._loop.time() + self._seconds > until:
                return False
            samples = found.setdefault(number, _Samples(number))
            await self._keep_under_way(samples, None)
            return True

        number = 1
        while number <= self._most and await take(number):
            if is_saturated([samples.row() for samples in found.values()]):
                break
            number = self._most if number < self._most < 2 * number else 2 * number
        slots = slots_of([samples.row() for samples in found.values() if not samples.failure])
        if slots is not None and slots not in found and slots <= self._most:
            await take(slots)
        for _ in range(_ROUNDS - 1):
            rows = [samples.row() for samples in found.values() if not samples.failure]
            best = max(row.tokens_per_second for row in rows)
            for row in sorted(rows, key=lambda row: -row.tokens_per_second):
                if row.tokens_per_second >= _CONTENDS * best:
                    await take(row.at_once)
        if not any(samples.tokens for samples in found.values()):
            raise self._too_slow("too few tokens came for a measurement")
        return [found[number].row() for number in sorted(found)]

    async def _keep_under_way(self, samples: _Samples, num_ctx: int | None) -> None:
        """Keep a number of requests in flight for a while.

        Raises:
            LLMError: The server failed with one request at a time. With more, `samples.failure` is set.
        """
        number = samples.at_once
        self._say(f"{number} at once" + (f" with num_ctx={num_ctx}" if num_ctx else ""))

        async def work() -> None:
            while True:
                await self._ask(samples, num_ctx)

        began = self._loop.time()
        seconds = min(self._seconds, max(self._end - began, 0.0))
        tasks = [asyncio.ensure_future(work()) for _ in range(number)]
        try:
            before = samples.answers
            for _ in range(_EXTENSIONS):
                await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                seconds = min(self._seconds, self._end - self._loop.time())
                if samples.answers > before or seconds <= 0 or any(task.done() for task in tasks):
                    break
            samples.seconds += self._loop.time() - began
        finally:
            await _cancelled(tasks)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                if not isinstance(error, LLMError) or number == 1:
                    raise error
                samples.failure = str(error)

    async def _ask(self, samples: _Samples, num_ctx: int | None) -> None:
        """Request an answer, and record its times."""
        self._asked += 1
        asked = self._loop.time()
        last: float | None = None
        tokens = 0
        try:
            async with self._subject.answer(self._prompt.format(number=self._asked), self._tokens, num_ctx) as answer:
                async for chunk in answer:
                    now = self._loop.time()
                    if _has_tokens(chunk):
                        if last is None:
                            samples.first.append(now - asked)
                        else:
                            samples.gap = max(samples.gap, now - last)
                        last = now
                        tokens += 1
                        samples.tokens += 1
                    if chunk.response is not None:
                        samples.tokens += max(chunk.response.usage.completion_tokens - tokens, 0)
                        samples.finished(chunk.response)
        except asyncio.CancelledError:
            if last is None:
                samples.without_first.append(self._loop.time() - asked)
            raise

    # The windows

    async def _windows(self, candidates: Sequence[int], at_once: int) -> list[WindowCost]:
        """The cost of each window, as far as there is time; finally the model is loaded as before."""
        costs: list[WindowCost] = []
        for window in candidates:
            ahead = 2 * (self._load or 0.0) + self._seconds  # loading it, and as before
            if self._loop.time() + ahead > self._end:
                break
            self._say(f"loading with num_ctx={window}")
            try:
                load = await self._load_with(window, self._end - (self._load or 0.0))
                samples = _Samples(at_once)
                await self._keep_under_way(samples, window)
                loaded = await self._within(self._subject.look())
            except _TimeIsUp:
                break
            except LLMError as error:
                costs.append(WindowCost(window, failure=str(error)))
                continue
            row = samples.row()
            rate = None if samples.failure else row.tokens_per_second
            costs.append(WindowCost(window, load, rate, loaded.memory, loaded.gpu_memory, samples.failure))
        if costs:
            self._say("loading the model as before")
            with contextlib.suppress(_TimeIsUp, LLMError):  # otherwise the next request does it
                await self._within(self._subject.load(None))
        return costs

    # Time

    async def _load_with(self, num_ctx: int | None, until: float, *, was_loaded: bool = False) -> float:
        """Load the model; timed here, since older servers do not report the duration."""
        began = self._loop.time()
        await self._within(self._subject.load(num_ctx), until=until)
        seconds = self._loop.time() - began
        if not was_loaded or seconds > _SHORTEST_LOAD:
            self._load = max(seconds, self._load or 0.0)
        return seconds

    def _say(self, what: str) -> None:
        if self._progress is not None:
            spent = (self._loop.time() - self._began) / self._budget
            self._progress(TuneProgress(1.0 if what == "done" else min(spent, 1.0), what))

    def _too_slow(self, what: str) -> LLMTimeoutError:
        return LLMTimeoutError(f"{what} within budget={self._budget:g} s: raise budget", seconds=self._budget)

    async def _within(self, work: Coroutine[Any, Any, T], *, until: float | None = None) -> T:
        """The result, if it arrives in time.

        Raises:
            _TimeIsUp: It does not.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task], timeout=max((until or self._end) - self._loop.time(), 0.0))
        finally:
            await _cancelled([task])
        if task.cancelled():
            raise _TimeIsUp
        return task.result()


def _has_tokens(chunk: StreamChunk) -> bool:
    return bool(chunk.content or chunk.thinking or chunk.tool_calls)


def _to_compare(in_force: int | None, trained: int | None) -> list[int]:
    """The windows that are worth a comparison: larger ones first, since prompts that are cut cost more than memory."""
    base = in_force or 4096
    found = [base * 2, base * 4, base // 2]
    if in_force is None:
        found.insert(0, base)
    return [one for one in found if 512 <= one <= (trained or one)]


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have given back what they held."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
