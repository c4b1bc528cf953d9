"""Settings that fit a server: the measured values, and the recommendations. Values and functions, no I/O.

`measuring.py` measures. `advise` decides, and states the reason of each decision, so that a reader can disagree.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from namel3ss_ollama.settings import StreamConfig

__all__ = ["AtOnce", "Measured", "Recommendation", "Tuning", "WindowCost", "advise", "is_saturated", "slots_of"]

_ENOUGH = 0.95
"""The part of the best throughput that the recommended number of requests must reach."""
_GAIN = 1.05
"""The gain in throughput that counts as faster."""
_WAITS = 0.3
"""The wait for a slot, relative to the time of an answer, above which the server's slots count as exhausted."""
_SAME_SPEED = 0.9
"""The part of the current window's throughput that another window must keep."""
_MORE_MEMORY, _LITTLE_MEMORY = 1.5, 1e9
"""How much memory a window may use off the GPU: relative to the smallest window, and in additional bytes. Servers do
not report how much there is."""
_SAFETY = 3.0
"""The longest wait that is expected, times this, is a deadline."""
_GAPS = 10.0
"""The longest gap between two chunks, times this, is a deadline."""
_BATCH = 512
"""Tokens of a prompt that a server reads before it writes the next token of other answers."""
_LEAST_FIRST, _LEAST_NEXT = 30, 10
_LOADS = 100.0
"""How many times as long as it takes to load a model should stay loaded without a request."""
_SECONDS = (10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 450, 600, 900, 1200, 1800, 3600)
_KEPT = ((300, "5m"), (900, "15m"), (1800, "30m"), (3600, "1h"), (7200, "2h"), (14400, "4h"), (86400, "24h"))


@dataclass(frozen=True, slots=True)
class AtOnce:
    """The results for a number of concurrent requests. Times are in seconds.

    Attributes:
        at_once: The number of concurrent requests.
        tokens_per_second: The total throughput.
        first_token_p50: The time to the first token, median.
        first_token_p95: The time to the first token, 95th percentile.
        queue_wait: The mean wait for one of the server's slots; None if the server does not report durations.
        service: The mean time of prompt evaluation and generation; None as before.
        longest_gap: The longest time between two chunks of an answer.
        read_per_second: Prompt tokens evaluated per second, median.
        tokens_per_answer: The mean number of tokens of a complete answer.
        answers: The number of complete answers.
        failure: Why the server failed with this number of requests; empty if it did not.
    """

    at_once: int
    tokens_per_second: float
    first_token_p50: float | None = None
    first_token_p95: float | None = None
    queue_wait: float | None = None
    service: float | None = None
    longest_gap: float | None = None
    read_per_second: float | None = None
    tokens_per_answer: float | None = None
    answers: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class WindowCost:
    """The cost of a context window.

    Attributes:
        num_ctx: The window, in tokens; None for the server's own, if it does not report it.
        load: The time to load the model, in seconds; None if it was loaded before.
        tokens_per_second: The total throughput with the recommended number of concurrent requests.
        memory: The model's size in memory in bytes, from /api/ps.
        gpu_memory: The part of it in GPU memory, in bytes.
        failure: Why the model cannot run with it; empty if it can.
    """

    num_ctx: int | None
    load: float | None = None
    tokens_per_second: float | None = None
    memory: int | None = None
    gpu_memory: int | None = None
    failure: str = ""

    @property
    def on_gpu(self) -> float | None:
        """The part of the model on a GPU, from 0 to 1; None if the server does not report it."""
        if not self.memory or self.gpu_memory is None:
            return None
        return min(self.gpu_memory / self.memory, 1.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of a server.

    Attributes:
        at_once: By the number of concurrent requests.
        windows: By the context window; the first is the current one.
        load: The longest time to load the model, in seconds; None if it was loaded all the time.
        asked: The `num_ctx` that the provider sends; None if it leaves that to the server.
    """

    at_once: tuple[AtOnce, ...]
    windows: tuple[WindowCost, ...] = ()
    load: float | None = None
    asked: int | None = None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A recommended setting.

    Attributes:
        name: Its name: an argument of `OllamaProvider` or of `StreamConfig`.
        value: Its value; None to keep the current one.
        reason: Why.
    """

    name: str
    value: int | str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Tuning:
    """The measurements of a server, and the recommended settings.

    Attributes:
        model: The model.
        host: The server's address, without credentials.
        seconds: The duration of the measurement.
        at_once: The results by the number of concurrent requests.
        windows: The results by the context window; the first is the current one.
        recommendations: The settings, each with its reason.
    """

    model: str
    host: str
    seconds: float
    at_once: tuple[AtOnce, ...]
    windows: tuple[WindowCost, ...]
    recommendations: tuple[Recommendation, ...]

    def __getitem__(self, name: str) -> Recommendation:
        """The recommendation for a setting.

        Raises:
            KeyError: There is none of that name.
        """
        for one in self.recommendations:
            if one.name == name:
                return one
        raise KeyError(name)

    @property
    def slots(self) -> int | None:
        """The number of concurrent requests that the server answers, derived from the waits; None if none waited."""
        return slots_of(self.at_once)

    @property
    def keywords(self) -> dict[str, Any]:
        """The settings as keywords of `OllamaProvider`."""
        values = self._values()
        first, following = (float(values.pop(name)) for name in _DEADLINES)
        return {**values, "stream_config": StreamConfig(first_chunk_timeout=first, chunk_timeout=following)}

    @property
    def environment(self) -> dict[str, str]:
        """The settings as environment variables of the server."""
        values = self._values()
        parallel = min(values["max_concurrent"], self.slots or values["max_concurrent"])
        found = {"OLLAMA_NUM_PARALLEL": parallel}
        for variable, name in (("OLLAMA_CONTEXT_LENGTH", "num_ctx"), ("OLLAMA_KEEP_ALIVE", "keep_alive")):
            if name in values:
                found[variable] = values[name]
        return {name: str(value) for name, value in found.items()}

    @property
    def python(self) -> str:
        """The call that creates a provider with the settings."""
        values = self._values()
        deadlines = ", ".join(f"{name}={values.pop(name)}" for name in _DEADLINES if name in values)
        lines = [json.dumps(one) for one in (self.model, self.host)]
        lines += [f"{name}={json.dumps(value)}" for name, value in values.items()]
        lines.append(f"stream_config=StreamConfig({deadlines})")
        return "OllamaProvider(\n" + "".join(f"    {line},\n" for line in lines) + ")"

    def to_dict(self) -> dict[str, Any]:
        """All values as plain types, for JSON."""
        return {**asdict(self), "slots": self.slots, "environment": self.environment, "python": self.python}

    def _values(self) -> dict[str, Any]:
        return {one.name: one.value for one in self.recommendations if one.value is not None}


_DEADLINES = ("first_chunk_timeout", "chunk_timeout")


def slots_of(rows: Sequence[AtOnce]) -> int | None:
    """A server's number of slots, by Little's law: answers per second times their duration.

    None if no request had to wait: the server has at least as many slots as there were requests.
    """
    for row in sorted(rows, key=lambda row: row.at_once):
        if row.service and _waits(row) and row.tokens_per_answer:
            found = round(row.tokens_per_second / row.tokens_per_answer * row.service)
            return min(max(found, 1), row.at_once)
    return None


def is_saturated(rows: Sequence[AtOnce]) -> bool:
    """Whether larger numbers of requests are not worth measuring, after these rows in rising order.

    That takes two signs: the last number gained nothing, and its requests waited, or the previous number gained nothing
    either. A single sign may be noise.
    """
    if rows and rows[-1].failure:
        return True
    if len(rows) < 2 or _gains(rows):
        return False
    return _waits(rows[-1]) or (len(rows) > 2 and not _gains(rows[:-1]))


def _waits(row: AtOnce) -> bool:
    return bool(row.queue_wait and row.service and row.queue_wait > _WAITS * row.service)


def _gains(rows: Sequence[AtOnce]) -> bool:
    return rows[-1].tokens_per_second > _GAIN * max(row.tokens_per_second for row in rows[:-1])


def advise(measured: Measured) -> tuple[Recommendation, ...]:
    """The recommended settings, each with its reason.

    Raises:
        ValueError: Nothing was measured.
    """
    row, concurrency = _concurrency(measured.at_once)
    window = _window(measured)
    size = window.value if isinstance(window.value, int) else None
    return concurrency, window, _first_chunk(measured, row, size), _next_chunk(measured, row), _keep_alive(measured)


def _concurrency(rows: Sequence[AtOnce]) -> tuple[AtOnce, Recommendation]:
    good = sorted((row for row in rows if not row.failure), key=lambda row: row.at_once)
    if not good:
        raise ValueError("at_once: nothing was measured without a failure")
    best = max(row.tokens_per_second for row in good)
    chosen = next(row for row in good if row.tokens_per_second >= _ENOUGH * best)
    one, slots = good[0], slots_of(good)
    why = f"{chosen.tokens_per_second:.1f} tokens/s in all"
    if chosen is not one and one.tokens_per_second:
        why += f", {chosen.tokens_per_second / one.tokens_per_second:.1f} times as many as {one.at_once} at a time"
    if slots is not None and slots <= chosen.at_once:
        why += f"; the server answers {slots} at once, and more requests wait in its queue"
        if chosen.at_once == 1:
            why += " (if its memory allows, raise OLLAMA_NUM_PARALLEL there and measure again)"
    elif chosen is good[-1]:
        failed = next((row for row in rows if row.failure), None)
        why += f"; {failed.at_once} at once failed" if failed else "; the most that was measured, more may be faster"
    else:
        why += "; more at once are hardly faster, and each waits longer"
    return chosen, Recommendation("max_concurrent", chosen.at_once, why)


def _window(measured: Measured) -> Recommendation:
    known = [row for row in measured.windows if row.num_ctx and not row.failure]
    if not known:
        return Recommendation("num_ctx", None, "the server does not tell its window, and no other was measured")
    allowed = [row for row in known if (row.num_ctx or 0) >= (measured.asked or 0)] or known
    usual = measured.windows[0].tokens_per_second or 0.0
    share = max((row.on_gpu or 0.0 for row in known), default=0.0)
    least = min((row.memory for row in known if row.memory), default=None)

    def objection(row: WindowCost) -> str:
        if row.tokens_per_second is not None and row.tokens_per_second < _SAME_SPEED * usual:
            return f"{row.num_ctx} is slower, with {row.tokens_per_second:.1f} tokens/s"
        if (row.on_gpu or 0.0) < share - 0.01:
            return f"{row.num_ctx} leaves only {row.on_gpu or 0.0:.0%} of the model on the GPU"
        if share < 0.99 and row.memory and least and row.memory > max(_MORE_MEMORY * least, least + _LITTLE_MEMORY):
            return f"{row.num_ctx} takes {_size(row.memory)} of memory"
        return ""

    fitting = [row for row in allowed if not objection(row)]
    if not fitting:
        why = "; ".join(objection(row) for row in allowed)
        return Recommendation("num_ctx", measured.windows[0].num_ctx, f"{why}: the one in force stays")
    chosen = max(fitting, key=lambda row: row.num_ctx or 0)
    larger = sorted((row for row in known if (row.num_ctx or 0) > (chosen.num_ctx or 0)), key=lambda r: r.num_ctx or 0)
    failed = next((row for row in measured.windows if row.failure), None)
    if len(measured.windows) == 1:
        why = "it is the one in force, and no other was measured"
    elif larger:
        why = f"{objection(larger[0])}; of those that were measured, this is the largest without such a drawback"
    elif failed is not None:
        why = f"with {failed.num_ctx} the server failed; this is the largest that works"
    else:
        why = "the largest that was measured, and it costs no speed"
    if chosen.memory:
        where = {None: "", 0.0: ", on the CPU", 1.0: ", all on the GPU"}
        on_gpu = chosen.on_gpu
        why += f"; it takes {_size(chosen.memory)}" + where.get(on_gpu, f", {on_gpu or 0.0:.0%} on the GPU")
    return Recommendation("num_ctx", chosen.num_ctx, why)


def _first_chunk(measured: Measured, row: AtOnce, window: int | None) -> Recommendation:
    name = "first_chunk_timeout"
    if measured.load is None:
        return Recommendation(name, 300, "the default, since loading the model was not measured")
    first = row.first_token_p95 or row.first_token_p50 or 0.0
    parts = [f"{measured.load:.1f} s to load the model", f"{first:.1f} s to the first token with {row.at_once} at once"]
    expected = measured.load + first
    if window and row.read_per_second:
        expected += window / row.read_per_second
        parts.append(f"{window / row.read_per_second:.1f} s to read a prompt that fills the window")
    parts[-1] = f"and {parts[-1]}"
    why = f"{', '.join(parts) if len(parts) > 2 else ' '.join(parts)}: three times that, at least {_LEAST_FIRST} s"
    return Recommendation(name, _rounded(_SAFETY * expected, _LEAST_FIRST), why)


def _next_chunk(measured: Measured, row: AtOnce) -> Recommendation:
    gap = max((one.longest_gap or 0.0 for one in measured.at_once if one.at_once <= row.at_once), default=0.0)
    why = f"{gap:.2f} s was the longest gap between two chunks"
    if row.read_per_second and _BATCH / row.read_per_second > gap:
        gap = _BATCH / row.read_per_second
        why += f", and {gap:.1f} s is what the server needs to read {_BATCH} tokens of another prompt meanwhile"
    why += f": ten times that, at least {_LEAST_NEXT} s"
    return Recommendation("chunk_timeout", _rounded(_GAPS * gap, _LEAST_NEXT), why)


def _keep_alive(measured: Measured) -> Recommendation:
    if measured.load is None:
        return Recommendation("keep_alive", None, "loading the model was not measured")
    wanted = _LOADS * measured.load
    kept = next((text for seconds, text in _KEPT if seconds >= wanted), _KEPT[-1][1])
    why = f"loading takes {measured.load:.1f} s: a model that stays for a hundred times as long, at least 5m, is rarely"
    return Recommendation("keep_alive", kept, f"{why} loaded again")


def _rounded(seconds: float, least: int) -> int:
    """The next round number of seconds."""
    return next((one for one in _SECONDS if one >= max(seconds, least)), _SECONDS[-1])


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
