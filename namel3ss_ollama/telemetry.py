"""Observability: metrics, spans, and the same numbers as a plain object.

The OpenTelemetry API is used if it is installed, and does nothing unless the application sets up an SDK; without it
`Telemetry.stats` has the same numbers. Everything is recorded when a request begins or ends, nothing per token. Prompts
and answers are not recorded unless the user enables `capture_content`.

If another instrumentation counts the same calls, the spans and metrics here can be turned off: for a provider
(`telemetry=False`), or within OpenTelemetry's own `suppress_instrumentation()`.

A request may also end in a finalizer, in any thread and within any critical section; `Telemetry.dropped` takes no lock
then, and the numbers are updated the next time they are read.

Names: `llm.*` are this package's own; `gen_ai.*` are OpenTelemetry's semantic conventions for generative AI clients
(their repository `semantic-conventions-genai`).
"""

from __future__ import annotations

import functools
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from namel3ss_ollama.errors import LLMError
from namel3ss_ollama.forks import renewed_after_fork
from namel3ss_ollama.greenlets import allocate_lock

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Counter, Histogram
    from opentelemetry.trace import Span, Tracer

    from namel3ss_ollama.types import LLMResponse, Usage

__all__ = ["Call", "HostStats", "Stats", "Telemetry"]

_SUPPRESSING = ("suppress_instrumentation", "suppress_language_model_instrumentation")
"""Context keys set by OpenTelemetry's `suppress_instrumentation()` and by framework instrumentations."""
Outcome = Literal["success", "error", "timeout", "cancelled"]
_REQUEST_ATTRIBUTES = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "num_predict": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}

_BOUNDARIES: Mapping[str, Sequence[float]] = {
    "s": [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92],
    "{token}": [4**power for power in range(14)],
    "{token}/s": [2**power for power in range(13)],
}
"""The buckets of histograms, by unit. The SDK's defaults suit milliseconds: most times in seconds would be in one.
Those of durations and of tokens are the ones that the semantic conventions name."""


@dataclass(slots=True)
class HostStats:
    """One server's statistics since the provider was created.

    Attributes:
        succeeded: Requests that it answered: generations, embeddings and decisions.
        failed: Requests that failed there, including those that were retried, there or on another server.
        prompt_tokens: Prompt tokens.
        completion_tokens: Answer tokens.
        queue_seconds: The time that requests which ended there had waited for their first slot, in seconds.
    """

    succeeded: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_seconds: float = 0.0

    @property
    def total_tokens(self) -> int:
        """Prompt and answer tokens."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(slots=True)
class Stats:
    """A provider's statistics since it was created. Times are in seconds.

    Attributes:
        generations_succeeded: Complete answers, including streams.
        generations_failed: Generations that ended in an error, including timeouts.
        generations_cancelled: Generations that the caller cancelled.
        streams_succeeded: Of the generations, streams that completed or reached `max_chunks`.
        streams_failed: Streams that ended in an error other than a timeout.
        streams_timed_out: Streams that timed out.
        streams_cancelled: Streams that the caller cancelled.
        embeddings_succeeded: Embedding requests that were answered; one call may send several.
        embeddings_failed: Embedding requests that ended in an error, including timeouts.
        embeddings_cancelled: Embedding requests that the caller cancelled.
        decisions_succeeded: Requests to decision models that were answered.
        decisions_failed: Requests to decision models that ended in an error, including timeouts.
        decisions_cancelled: Requests to decision models that the caller cancelled.
        chunks: Chunks that streams handed out.
        retries: Requests that were sent again.
        prompt_tokens: Prompt tokens.
        cached_tokens: Of these, tokens that servers read from their caches, as far as they report it.
        completion_tokens: Answer tokens.
        queue_seconds: The total time of waiting for a slot, including requests that gave up.
        first_token_seconds: The mean time from sending a request to its first token.
        tokens_per_second: The mean speed that the server reports, weighted by tokens.
        running: Requests in flight now.
        queued: Requests waiting for a slot now.
        by_host: Each server's share, by address; servers without a request are missing.
    """

    generations_succeeded: int = 0
    generations_failed: int = 0
    generations_cancelled: int = 0
    streams_succeeded: int = 0
    streams_failed: int = 0
    streams_timed_out: int = 0
    streams_cancelled: int = 0
    embeddings_succeeded: int = 0
    embeddings_failed: int = 0
    embeddings_cancelled: int = 0
    decisions_succeeded: int = 0
    decisions_failed: int = 0
    decisions_cancelled: int = 0
    chunks: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_seconds: float = 0.0
    first_token_seconds: float | None = None
    tokens_per_second: float | None = None
    running: int = 0
    queued: int = 0
    by_host: dict[str, HostStats] = field(default_factory=dict[str, HostStats])

    @property
    def total_tokens(self) -> int:
        """Prompt and answer tokens."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(slots=True)
class Call:
    """One request, from the wait for a slot to its end."""

    operation: str
    model: str
    streaming: bool
    span: Span | None
    silent: bool = False
    began: float = field(default_factory=time.perf_counter)
    slot_at: float | None = None
    sent_at: float | None = None
    first_token: float | None = None
    chunks: int = 0
    retries: int = 0
    ended: bool = False
    host: str | None = None  # with several, the one that has it

    def slot(self) -> None:
        """The request has a slot: its first one, or one of another host."""
        self.sent_at = time.perf_counter()
        self.slot_at = self.slot_at or self.sent_at

    def sent(self) -> None:
        """An attempt begins."""
        self.sent_at = time.perf_counter()

    def first(self) -> float:
        """The first chunk has arrived; returns the seconds since the attempt began."""
        self.first_token = time.perf_counter() - (self.sent_at or self.began)
        return self.first_token

    @property
    def queued_for(self) -> float:
        """Seconds of waiting for a slot; so far, if it has none yet."""
        return (self.slot_at or time.perf_counter()) - self.began

    @property
    def prefix(self) -> str | None:
        """The prefix of its fields in `Stats`; loading a model is not counted."""
        return {"load": None, "embeddings": "embeddings", "decisions": "decisions"}.get(self.operation, "generations")


class Telemetry:
    """The telemetry of one provider.

    Args:
        url: The server's address, without credentials; None if there are several and each request has its own.
        capture_content: Whether spans carry prompts and answers.
        enabled: Whether OpenTelemetry is used.
    """

    def __init__(self, url: str | None, *, capture_content: bool = False, enabled: bool = True) -> None:
        self._url = url
        self._server = _server_attributes(url)
        self._capture = capture_content
        self._enabled = enabled
        self.after_fork()
        renewed_after_fork(self)
        self._dropped: deque[Call] = deque()
        self._stats = Stats()
        self._first_tokens = 0
        self._first_token_sum = 0.0
        self._timed_tokens = 0
        self._timed_seconds = 0.0

    def after_fork(self) -> None:
        """A thread of the parent may have held the lock."""
        self._lock = allocate_lock()

    def stats(self, *, running: int, queued: int) -> Stats:
        """A copy of the statistics."""
        self._end_dropped()
        with self._lock:
            values = {name: getattr(self._stats, name) for name in Stats.__slots__}
            by_host = {url: replace(numbers) for url, numbers in self._stats.by_host.items()}
            values.update(running=running, queued=queued, by_host=by_host)
            if self._first_tokens:
                values["first_token_seconds"] = self._first_token_sum / self._first_tokens
            if self._timed_seconds:
                values["tokens_per_second"] = self._timed_tokens / self._timed_seconds
        return Stats(**values)

    def context(self) -> Context | None:
        """The caller's trace context, for a request that begins later, when another one may be current."""
        otel = _instruments() if self._enabled else None
        return otel.current() if otel is not None else None

    def begin(
        self, operation: str, body: Mapping[str, Any], *, streaming: bool, context: Context | None = None
    ) -> Call:
        """A request begins, with the wait for its slot.

        Args:
            operation: Its name in OpenTelemetry's conventions, or "load" or "decisions", which they do not define.
            body: The request body.
            streaming: Whether chunks are handed out.
            context: Its trace context; the current one by default.
        """
        model = str(body.get("model", ""))
        span: Span | None = None
        otel = _instruments() if self._enabled else None
        silent = not self._enabled or (otel is not None and otel.suppressed(context))
        if otel is not None and not silent and operation != "load":
            span = otel.tracer.start_span(
                f"{operation} {model}",
                context,
                kind=otel.client_kind,
                attributes=self._attributes(operation, body),
            )
            if self._capture and span.is_recording():
                sent = body.get("messages") or body.get("prompt") or body.get("input")
                if operation == "decisions":
                    sent = [{"role": "user", "content": {name: body[name] for name in ("state", "questions")}}]
                span.set_attribute("gen_ai.input.messages", _as_messages(sent, "user"))
        return Call(operation, model, streaming, span, silent)

    def retried(self, call: Call, error: LLMError) -> None:
        """The request is about to be sent again."""
        call.retries += 1
        with self._lock:
            self._stats.retries += 1
            if (host := self._host(call)) is not None:
                host.failed += 1
        otel = None if call.silent else _instruments()
        if otel is not None:
            otel.retries.add(1, {**self._labels(call), "error.type": type(error).__name__})

    def _host(self, call: Call) -> HostStats | None:
        """The statistics of a request's server; None before it has a slot, or if it is not counted."""
        url = call.host or self._url
        if url is None or call.slot_at is None or call.prefix is None:
            return None
        known = self._stats.by_host.get(url)
        if known is None:
            known = self._stats.by_host[url] = HostStats()
        return known

    def _labels(self, call: Call) -> dict[str, Any]:
        """The attributes of this package's own metrics; with several servers, they include the server."""
        return {"model": call.model, **(_server_attributes(call.host) if self._url is None else {})}

    def end(
        self,
        call: Call,
        outcome: Outcome,
        *,
        usage: Usage | None = None,
        response: LLMResponse | None = None,
        error: BaseException | None = None,
    ) -> None:
        """The request has ended; only the first call has an effect."""
        self._end_dropped()
        if call.ended:
            return
        call.ended = True
        if call.prefix is None:
            return
        metadata = response.metadata if response else {}
        with self._lock:
            self._count(call, outcome, usage, metadata)
        otel = None if call.silent else _instruments()
        if otel is not None:
            self._record(otel, call, outcome, usage, response, error)

    def dropped(self, call: Call) -> None:
        """The request was dropped and is ended by a finalizer; counted as cancelled the next time numbers are read."""
        self._dropped.append(call)

    def _end_dropped(self) -> None:
        while self._dropped:
            self.end(self._dropped.popleft(), "cancelled")

    def _count(self, call: Call, outcome: Outcome, usage: Usage | None, metadata: Mapping[str, Any]) -> None:
        stats = self._stats
        ending = {"success": "succeeded", "cancelled": "cancelled"}.get(outcome, "failed")
        name = f"{call.prefix}_{ending}"
        setattr(stats, name, getattr(stats, name) + 1)
        if call.streaming:
            if outcome == "success":
                stats.streams_succeeded += 1
            elif outcome == "error":
                stats.streams_failed += 1
            elif outcome == "timeout":
                stats.streams_timed_out += 1
            else:
                stats.streams_cancelled += 1
            stats.chunks += call.chunks
        stats.queue_seconds += call.queued_for
        if (host := self._host(call)) is not None:
            host.succeeded += outcome == "success"
            host.failed += outcome in ("error", "timeout")
            host.queue_seconds += call.queued_for
            if usage:
                host.prompt_tokens += usage["prompt_tokens"]
                host.completion_tokens += usage["completion_tokens"]
        if usage:
            stats.prompt_tokens += usage["prompt_tokens"]
            stats.cached_tokens += usage.cached_tokens or 0
            stats.completion_tokens += usage["completion_tokens"]
        if call.first_token is not None:
            self._first_tokens += 1
            self._first_token_sum += call.first_token
        if metadata.get("eval_count") and metadata.get("eval_duration"):
            self._timed_tokens += metadata["eval_count"]
            self._timed_seconds += metadata["eval_duration"] / 1e9

    def _attributes(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "ollama",
            "gen_ai.request.model": str(body.get("model", "")),
            **self._server,
        }
        options = body.get("options") or {}
        for option, name in _REQUEST_ATTRIBUTES.items():
            if option in options:
                attributes[name] = options[option]
        if operation not in ("embeddings", "decisions"):
            attributes["gen_ai.output.type"] = "json" if body.get("format") else "text"
        return attributes

    def _record(
        self,
        otel: _Instruments,
        call: Call,
        outcome: Outcome,
        usage: Usage | None,
        response: LLMResponse | None,
        error: BaseException | None,
    ) -> None:
        model = self._labels(call)
        conventional: dict[str, Any] = {
            "gen_ai.operation.name": call.operation,
            "gen_ai.provider.name": "ollama",
            "gen_ai.request.model": call.model,
            **(self._server or _server_attributes(call.host)),
        }
        if response is not None and response.model:
            conventional["gen_ai.response.model"] = response.model
        if call.streaming:
            otel.streams[outcome].add(1, model)
            otel.chunks.add(call.chunks, model)
        if call.prefix == "generations":
            if outcome == "success":
                otel.succeeded.add(1, model)
            elif outcome != "cancelled":
                otel.failed.add(1, {**model, "error.type": type(error).__name__})
        otel.queue_wait.record(call.queued_for, model)
        if call.first_token is not None:
            otel.first_token.record(call.first_token, model)
            if call.streaming:
                otel.first_chunk.record(call.first_token, conventional)
        if usage is not None:
            otel.tokens.add(usage["total_tokens"], model)
            otel.token_usage.record(usage["prompt_tokens"], {**conventional, "gen_ai.token.type": "input"})
            otel.token_usage.record(usage["completion_tokens"], {**conventional, "gen_ai.token.type": "output"})
        if response is not None and "tokens_per_second" in response.metadata:
            otel.speed.record(response.metadata["tokens_per_second"], model)
        failed = {"error.type": _error_type(error)} if outcome in ("error", "timeout") else {}
        otel.duration.record(time.perf_counter() - call.began, {**conventional, **failed})
        if call.span is not None:
            self._end_span(call.span, call, usage, response, error if failed else None)

    def _end_span(
        self, span: Span, call: Call, usage: Usage | None, response: LLMResponse | None, error: BaseException | None
    ) -> None:
        if span.is_recording():
            if self._url is None:
                span.set_attributes(_server_attributes(call.host))
            if call.retries:
                span.set_attribute("llm.retries", call.retries)
            if usage is not None:
                span.set_attribute("gen_ai.usage.input_tokens", usage["prompt_tokens"])
                span.set_attribute("gen_ai.usage.output_tokens", usage["completion_tokens"])
                if usage.cached_tokens is not None:
                    span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens)
            if response is not None:
                span.set_attribute("gen_ai.response.model", response.model)
                if response.finish_reason:
                    span.set_attribute("gen_ai.response.finish_reasons", [response.finish_reason])
                if self._capture:
                    span.set_attribute("gen_ai.output.messages", _as_messages(response.content, "assistant"))
            if error is not None:
                from opentelemetry.trace import StatusCode

                span.set_attribute("error.type", _error_type(error))
                span.set_status(StatusCode.ERROR, str(error) if isinstance(error, LLMError) else None)
        span.end()


@functools.lru_cache(maxsize=1024)
def _server_attributes(url: str | None) -> Mapping[str, Any]:
    """The attributes that name a server; empty if there is none."""
    if url is None:
        return {}
    parts = urlsplit(url)
    return {"server.address": parts.hostname or url, **({"server.port": parts.port} if parts.port else {})}


def _error_type(error: BaseException | None) -> str:
    status = error.status_code if isinstance(error, LLMError) else None
    return str(status) if status else type(error).__name__


def _as_messages(content: Any, role: str) -> str:
    """Content in the form of the conventions: a list of messages with parts, as JSON."""
    turns: Sequence[Any] = content if isinstance(content, list) else [{"role": role, "content": content}]
    messages: list[dict[str, Any]] = []
    for turn in turns:
        message: Mapping[str, Any] = turn if isinstance(turn, Mapping) else {"role": role, "content": turn}
        parts = [{"type": "text", "content": message.get("content")}]
        messages.append({"role": message.get("role", role), "parts": parts})
    return json.dumps(messages, ensure_ascii=False, default=str)


@dataclass(frozen=True, slots=True)
class _Instruments:
    current: Callable[[], Context]
    value: Callable[[str, Context | None], object]
    tracer: Tracer
    client_kind: Any
    succeeded: Counter
    failed: Counter
    tokens: Counter
    streams: dict[str, Counter]
    chunks: Counter
    retries: Counter
    queue_wait: Histogram
    first_token: Histogram
    speed: Histogram
    token_usage: Histogram
    duration: Histogram
    first_chunk: Histogram

    def suppressed(self, context: Context | None) -> bool:
        """Whether an enclosing instrumentation has suppressed this one."""
        return any(self.value(key, context) for key in _SUPPRESSING)


@functools.cache
def _instruments() -> _Instruments | None:
    """OpenTelemetry's instruments; None if its API is not installed."""
    with suppress(ImportError):
        from opentelemetry import context, metrics, trace

        from namel3ss_ollama._version import __version__

        meter = metrics.get_meter("namel3ss_ollama", __version__)

        def counter(name: str, what: str, unit: str = "1") -> Counter:
            return meter.create_counter(name, unit=unit, description=what)

        def histogram(name: str, what: str, unit: str = "s") -> Histogram:
            return meter.create_histogram(
                name, unit=unit, description=what, explicit_bucket_boundaries_advisory=_BOUNDARIES[unit]
            )

        return _Instruments(
            current=context.get_current,
            value=context.get_value,
            tracer=trace.get_tracer("namel3ss_ollama", __version__),
            client_kind=trace.SpanKind.CLIENT,
            succeeded=counter("llm.generation.success", "Complete answers."),
            failed=counter("llm.generation.error", "Requests that ended in an error."),
            tokens=counter("llm.tokens.total", "Prompt and answer tokens.", "{token}"),
            streams={
                "success": counter("llm.streaming.success", "Complete streams."),
                "error": counter("llm.streaming.error", "Streams that ended in an error."),
                "timeout": counter("llm.streaming.timeout", "Streams that timed out."),
                "cancelled": counter("llm.streaming.cancelled", "Streams that the caller cancelled."),
            },
            chunks=counter("llm.streaming.chunks", "Chunks of all streams.", "{chunk}"),
            retries=counter("llm.retry", "Requests sent again."),
            queue_wait=histogram("llm.queue.wait", "Waiting for a slot."),
            first_token=histogram("llm.time_to_first_token", "From sending to the first token."),
            speed=histogram("llm.tokens_per_second", "Speed as the server reports it.", "{token}/s"),
            token_usage=histogram("gen_ai.client.token.usage", "Tokens used.", "{token}"),
            duration=histogram("gen_ai.client.operation.duration", "Duration of the operation."),
            first_chunk=histogram(
                "gen_ai.client.operation.time_to_first_chunk", "From sending to the first chunk of a stream."
            ),
        )
    return None
