"""Telemetry with OpenTelemetry's SDK, without it, and as plain numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from namel3ss_ollama import telemetry as module
from namel3ss_ollama.errors import LLMTimeoutError, ModelNotFoundError, ServerBusyError
from namel3ss_ollama.telemetry import Call, HostStats, Stats, Telemetry
from namel3ss_ollama.types import LLMResponse, Usage

URL = "http://here:11434"
BODY = {"model": "m", "messages": [{"role": "user", "content": "a private question"}]}
USAGE = Usage(prompt_tokens=10, completion_tokens=6, total_tokens=16)
METADATA = {"eval_count": 6, "eval_duration": 3_000_000_000, "tokens_per_second": 2.0}


def answer(text: str = "a private answer", **metadata: Any) -> LLMResponse:
    return LLMResponse(text, "m:latest", USAGE, "stop", {**METADATA, **metadata})


class Clock:
    """Stands in for the module `time`."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    # A dataclass keeps the function that it was made with.
    monkeypatch.setattr(Call, "__init__", _with_clock(Call.__init__, clock))
    return clock


def _with_clock(init: Any, clock: Clock) -> Any:
    def wrapped(self: Call, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        self.began = clock.now

    return wrapped


@dataclass
class Point:
    value: Any
    attributes: dict[str, Any]


class Seen:
    """What a monitored application would record during one test."""

    def __init__(self, spans: InMemorySpanExporter, reader: InMemoryMetricReader) -> None:
        self._spans = spans
        self._reader = reader
        self._before = self._totals()

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._spans.get_finished_spans()

    def _totals(self) -> dict[tuple[str, str], Point]:
        data = self._reader.get_metrics_data()
        found: dict[tuple[str, str], Point] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                if scope.scope.name != "namel3ss_ollama":
                    continue
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        attributes = dict(point.attributes or {})
                        value = (point.count, point.sum) if hasattr(point, "count") else (point.value, point.value)
                        found[metric.name, repr(sorted(attributes.items()))] = Point(value, attributes)
        return found

    def metrics(self) -> dict[str, list[Point]]:
        """By name, what was added since the test began: counters as numbers, histograms as (count, sum)."""
        grown: dict[str, list[Point]] = {}
        for key, point in self._totals().items():
            before = self._before[key].value if key in self._before else (0, 0)
            count, total = point.value[0] - before[0], point.value[1] - before[1]
            if count:
                grown.setdefault(key[0], []).append(Point((count, total), point.attributes))
        return grown


@pytest.fixture
def seen(sdk: tuple[InMemorySpanExporter, InMemoryMetricReader]) -> Seen:
    sdk[0].clear()
    return Seen(*sdk)


@pytest.fixture
def without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.setitem(sys.modules, name, None)
    module._instruments.cache_clear()
    yield
    module._instruments.cache_clear()


def stream(clock: Clock, telemetry: Telemetry, body: Any = BODY) -> Call:
    """A stream: half a second in the queue, two seconds to the first of three chunks."""
    call = telemetry.begin("chat", body, streaming=True)
    clock.now += 0.5
    call.slot()
    clock.now += 2.0
    call.first()
    call.chunks = 3
    clock.now += 1.0
    return call


# The numbers


def test_an_unused_provider_has_empty_stats() -> None:
    stats = Telemetry(URL).stats(running=0, queued=0)
    assert stats == Stats()
    assert stats.total_tokens == 0
    assert (stats.first_token_seconds, stats.tokens_per_second) == (None, None)


def test_the_numbers_of_a_stream(clock: Clock) -> None:
    telemetry = Telemetry(URL)
    call = stream(clock, telemetry)
    telemetry.end(call, "success", usage=USAGE, response=answer())
    stats = telemetry.stats(running=2, queued=5)
    assert stats == Stats(
        generations_succeeded=1, streams_succeeded=1, chunks=3, prompt_tokens=10, completion_tokens=6,
        queue_seconds=0.5, first_token_seconds=2.0, tokens_per_second=2.0, running=2, queued=5,
        by_host={URL: HostStats(succeeded=1, prompt_tokens=10, completion_tokens=6, queue_seconds=0.5)},
    )  # fmt: skip
    assert stats.total_tokens == 16


def started(telemetry: Telemetry, host: str | None, operation: str = "chat") -> Call:
    call = telemetry.begin(operation, BODY, streaming=False)
    call.host = host
    call.slot()
    return call


def test_the_numbers_of_each_of_several_hosts(clock: Clock) -> None:
    telemetry = Telemetry(None)
    call = started(telemetry, "http://a:1")
    telemetry.retried(call, ServerBusyError("x"))
    call.host = "http://b:2"
    telemetry.end(call, "success", usage=USAGE)
    for outcome in ("success", "error", "timeout", "cancelled"):
        telemetry.end(started(telemetry, "http://b:2"), outcome, usage=USAGE if outcome == "success" else None)
    stats = telemetry.stats(running=0, queued=0)
    assert stats.by_host == {
        "http://a:1": HostStats(failed=1),
        "http://b:2": HostStats(succeeded=2, failed=2, prompt_tokens=20, completion_tokens=12),
    }
    assert stats.by_host["http://b:2"].total_tokens == 32
    stats.by_host["http://b:2"].failed = 77  # a copy
    assert telemetry.stats(running=0, queued=0).by_host["http://b:2"].failed == 2


def test_a_request_without_a_host_counts_for_none(clock: Clock) -> None:
    telemetry = Telemetry(None)
    telemetry.end(telemetry.begin("chat", BODY, streaming=False), "error", error=ServerBusyError("x"))
    telemetry.end(started(telemetry, None), "error", error=ServerBusyError("x"))
    telemetry.end(started(telemetry, "http://a:1", "load"), "success")
    stats = telemetry.stats(running=0, queued=0)
    assert (stats.generations_failed, stats.by_host) == (2, {})


def test_spans_and_metrics_name_the_host_that_answered(seen: Seen, clock: Clock) -> None:
    telemetry = Telemetry(None)
    call = started(telemetry, "http://a:1")
    telemetry.retried(call, ServerBusyError("x"))
    call.host = "http://b:2"
    telemetry.end(call, "success", usage=USAGE, response=answer())
    (span,) = seen.spans
    attributes = dict(span.attributes or {})
    assert (attributes["server.address"], attributes["server.port"]) == ("b", 2)
    points = seen.metrics()
    for name in ("gen_ai.client.operation.duration", "llm.generation.success", "llm.queue.wait"):
        assert [point.attributes["server.address"] for point in points[name]] == ["b"]
    assert [point.attributes["server.address"] for point in points["llm.retry"]] == ["a"]


@pytest.mark.parametrize(
    ("outcome", "whole", "streamed"),
    [
        ("success", "generations_succeeded", "streams_succeeded"),
        ("error", "generations_failed", "streams_failed"),
        ("timeout", "generations_failed", "streams_timed_out"),
        ("cancelled", "generations_cancelled", "streams_cancelled"),
    ],
)
@pytest.mark.parametrize("streaming", [True, False])
def test_each_outcome_has_its_counter(outcome: Any, whole: str, streamed: str, streaming: bool) -> None:
    telemetry = Telemetry(URL)
    telemetry.end(telemetry.begin("chat", BODY, streaming=streaming), outcome)
    stats = telemetry.stats(running=0, queued=0)
    names = [n for n in Stats.__slots__ if n.startswith(("generations_", "streams_")) and getattr(stats, n)]
    assert names == ([whole, streamed] if streaming else [whole])


def test_only_the_first_end_counts(seen: Seen) -> None:
    telemetry = Telemetry(URL)
    call = telemetry.begin("chat", BODY, streaming=False)
    telemetry.end(call, "success", usage=USAGE)
    telemetry.end(call, "error", usage=USAGE, error=ValueError())
    stats = telemetry.stats(running=0, queued=0)
    assert (stats.generations_succeeded, stats.generations_failed, stats.prompt_tokens) == (1, 0, 10)
    assert len(seen.spans) == 1


def test_means_ignore_missing_values(clock: Clock) -> None:
    telemetry = Telemetry(URL)
    for seconds, tokens, duration in ((1, 10, 1), (3, 30, 9), (None, None, None)):
        call = telemetry.begin("chat", BODY, streaming=False)
        call.slot()
        metadata: dict[str, Any] = {}
        if seconds is not None:
            clock.now += seconds
            assert call.first() == seconds
            metadata = {"eval_count": tokens, "eval_duration": duration * 10**9}
        telemetry.end(call, "success", response=LLMResponse("", "m", USAGE, "stop", metadata))
    stats = telemetry.stats(running=0, queued=0)
    assert (stats.first_token_seconds, stats.tokens_per_second) == (2.0, 4.0)


def test_a_first_chunk_without_a_slot_counts_from_the_start(clock: Clock) -> None:
    telemetry = Telemetry(URL)
    call = telemetry.begin("embeddings", BODY, streaming=False)
    clock.now += 4
    assert call.first() == 4
    telemetry.end(call, "success")
    assert telemetry.stats(running=0, queued=0).first_token_seconds == 4


def test_cached_tokens_are_counted_and_on_the_span_if_reported(seen: Seen) -> None:
    telemetry = Telemetry(URL)
    cached = Usage(prompt_tokens=10, completion_tokens=6, total_tokens=16, cached_tokens=8)
    for usage in (cached, USAGE, cached):
        telemetry.end(telemetry.begin("chat", BODY, streaming=False), "success", usage=usage, response=answer())
    stats = telemetry.stats(running=0, queued=0)
    assert (stats.prompt_tokens, stats.cached_tokens) == (30, 16)
    name = "gen_ai.usage.cache_read.input_tokens"
    assert [(span.attributes or {}).get(name) for span in seen.spans] == [8, None, 8]


def test_retries_are_counted() -> None:
    telemetry = Telemetry(URL)
    call = telemetry.begin("chat", BODY, streaming=False)
    for _ in range(2):
        telemetry.retried(call, ServerBusyError("x"))
    assert call.retries == 2
    assert telemetry.stats(running=0, queued=0).retries == 2


def test_the_numbers_are_a_copy() -> None:
    telemetry = Telemetry(URL)
    stats = telemetry.stats(running=0, queued=0)
    stats.retries = 99
    assert telemetry.stats(running=0, queued=0).retries == 0


# Spans


def test_a_span_describes_request_and_response(seen: Seen, clock: Clock) -> None:
    telemetry = Telemetry(URL)
    options = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "num_predict": 7, "seed": 1, "stop": ["END"],
        "frequency_penalty": 0.1, "presence_penalty": 0.2, "num_ctx": 4096,
    }  # fmt: skip
    call = stream(clock, telemetry, {**BODY, "options": options, "format": "json"})
    telemetry.retried(call, ServerBusyError("x"))
    telemetry.end(call, "success", usage=USAGE, response=answer())
    (span,) = seen.spans
    assert (span.name, span.kind, span.status.status_code) == ("chat m", SpanKind.CLIENT, StatusCode.UNSET)
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "namel3ss_ollama"
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 40,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.seed": 1,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.request.frequency_penalty": 0.1,
        "gen_ai.request.presence_penalty": 0.2,
        "gen_ai.output.type": "json",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 6,
        "gen_ai.response.model": "m:latest",
        "gen_ai.response.finish_reasons": ("stop",),
        "server.address": "here",
        "server.port": 11434,
        "llm.retries": 1,
    }


def test_unset_fields_are_not_in_the_span(seen: Seen) -> None:
    telemetry = Telemetry("nowhere")
    telemetry.end(telemetry.begin("embeddings", {"model": "m", "input": "x"}, streaming=False), "success")
    assert dict(seen.spans[0].attributes or {}) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "m",
        "server.address": "nowhere",
    }


@pytest.mark.parametrize(("format", "kind"), [(None, "text"), ("json", "json"), ({"type": "object"}, "json")])
def test_the_kind_of_output(seen: Seen, format: Any, kind: str) -> None:
    telemetry = Telemetry(URL)
    telemetry.end(telemetry.begin("chat", {**BODY, "format": format}, streaming=False), "success")
    assert (seen.spans[0].attributes or {})["gen_ai.output.type"] == kind


@pytest.mark.parametrize(
    ("outcome", "error", "kind", "description"),
    [
        ("error", ModelNotFoundError("pull it", status_code=404), "404", "pull it"),
        ("timeout", LLMTimeoutError("late"), "LLMTimeoutError", "late"),
        ("error", ValueError("quotes what was asked"), "ValueError", None),
    ],
)
def test_a_failed_span_has_a_reason(
    seen: Seen, outcome: Any, error: Exception, kind: str, description: str | None
) -> None:
    telemetry = Telemetry(URL)
    telemetry.end(telemetry.begin("chat", BODY, streaming=False), outcome, error=error)
    (span,) = seen.spans
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, description)
    assert (span.attributes or {})["error.type"] == kind


def test_an_answer_without_a_finish_reason_has_none_in_the_span(seen: Seen) -> None:
    telemetry = Telemetry(URL)
    partial = LLMResponse("", "m:latest", USAGE, None, {})
    telemetry.end(telemetry.begin("chat", BODY, streaming=True), "success", response=partial)
    assert "gen_ai.response.finish_reasons" not in (seen.spans[0].attributes or {})


def test_a_cancelled_request_is_no_error(seen: Seen) -> None:
    telemetry = Telemetry(URL)
    telemetry.end(telemetry.begin("chat", BODY, streaming=True), "cancelled", error=GeneratorExit())
    (span,) = seen.spans
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in (span.attributes or {})


def test_no_content_is_recorded_by_default(seen: Seen, clock: Clock) -> None:
    for body in (BODY, {"model": "m", "prompt": "a private question"}, {"model": "m", "input": ["a private text"]}):
        telemetry = Telemetry(URL)
        telemetry.end(stream(clock, telemetry, body), "success", usage=USAGE, response=answer())
    everything = "".join(span.to_json() for span in seen.spans) + repr(seen.metrics())
    assert "private" not in everything


def parts(*turns: tuple[str, str]) -> list[Any]:
    return [{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in turns]


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (BODY, parts(("user", "a private question"))),
        (
            {"model": "m", "messages": [{"role": "system", "content": "ä"}, {"role": "user", "content": "b"}]},
            parts(("system", "ä"), ("user", "b")),
        ),
        ({"model": "m", "prompt": "p"}, parts(("user", "p"))),
        ({"model": "m", "input": ["a", "b"]}, parts(("user", "a"), ("user", "b"))),
    ],
)
def test_content_is_captured_if_enabled(seen: Seen, body: Any, sent: list[Any]) -> None:
    telemetry = Telemetry(URL, capture_content=True)
    telemetry.end(telemetry.begin("chat", body, streaming=False), "success", usage=USAGE, response=answer("ö"))
    attributes = dict(seen.spans[0].attributes or {})
    assert json.loads(str(attributes["gen_ai.input.messages"])) == sent
    assert json.loads(str(attributes["gen_ai.output.messages"])) == parts(("assistant", "ö"))
    assert "\\u" not in str(attributes["gen_ai.input.messages"])


def test_a_span_that_is_not_recorded_is_only_ended(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    otel = module._instruments()
    assert otel is not None
    span = trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)
    ended: list[bool] = []
    monkeypatch.setattr(span, "end", lambda: ended.append(True))
    monkeypatch.setattr(span, "set_attribute", lambda *_: pytest.fail("an attribute that is not recorded"))
    call = Call("chat", "m", False, span)
    Telemetry(URL, capture_content=True).end(call, "error", usage=USAGE, response=answer(), error=ValueError())
    assert ended == [True]


# Metrics


def test_the_metrics_of_a_stream(seen: Seen, clock: Clock) -> None:
    telemetry = Telemetry(URL)
    call = stream(clock, telemetry)
    telemetry.retried(call, ServerBusyError("x", status_code=503))
    telemetry.end(call, "success", usage=USAGE, response=answer())
    model = {"model": "m"}
    conventional = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m:latest",
        "server.address": "here",
        "server.port": 11434,
    }
    found = {name: [(p.value, p.attributes) for p in points] for name, points in seen.metrics().items()}
    tokens = found.pop("gen_ai.client.token.usage")
    assert sorted(tokens, key=repr) == [
        ((1, 10), {**conventional, "gen_ai.token.type": "input"}),
        ((1, 6), {**conventional, "gen_ai.token.type": "output"}),
    ]
    assert found == {
        "llm.generation.success": [((1, 1), model)],
        "llm.streaming.success": [((1, 1), model)],
        "llm.streaming.chunks": [((3, 3), model)],
        "llm.retry": [((1, 1), {**model, "error.type": "ServerBusyError"})],
        "llm.tokens.total": [((16, 16), model)],
        "llm.queue.wait": [((1, 0.5), model)],
        "llm.time_to_first_token": [((1, 2.0), model)],
        "llm.tokens_per_second": [((1, 2.0), model)],
        "gen_ai.client.operation.duration": [((1, 3.5), conventional)],
        "gen_ai.client.operation.time_to_first_chunk": [((1, 2.0), conventional)],
    }


@pytest.mark.parametrize(
    ("outcome", "error", "names"),
    [
        ("success", None, {"llm.generation.success", "llm.streaming.success"}),
        ("error", ValueError(), {"llm.generation.error", "llm.streaming.error"}),
        ("timeout", LLMTimeoutError("x"), {"llm.generation.error", "llm.streaming.timeout"}),
        ("cancelled", GeneratorExit(), {"llm.streaming.cancelled"}),
    ],
)
def test_each_outcome_has_its_metrics(seen: Seen, outcome: Any, error: BaseException | None, names: set[str]) -> None:
    telemetry = Telemetry(URL)
    telemetry.end(telemetry.begin("chat", BODY, streaming=True), outcome, error=error)
    found = seen.metrics()
    assert {n for n in found if n.startswith(("llm.generation", "llm.streaming."))} == names
    (duration,) = found["gen_ai.client.operation.duration"]
    expected = type(error).__name__ if outcome in ("error", "timeout") else None
    assert duration.attributes.get("error.type") == expected
    for point in found.get("llm.generation.error", []):
        assert point.attributes == {"model": "m", "error.type": expected}


def test_a_single_response_has_no_metrics_of_streams(seen: Seen, clock: Clock) -> None:
    telemetry = Telemetry(URL)
    call = telemetry.begin("chat", BODY, streaming=False)
    call.slot()
    call.first()
    telemetry.end(call, "success")
    assert set(seen.metrics()) == {
        "llm.generation.success", "llm.queue.wait", "llm.time_to_first_token", "gen_ai.client.operation.duration",
    }  # fmt: skip


# Without OpenTelemetry


def test_histograms_have_buckets_that_suit_their_units(
    sdk: tuple[InMemorySpanExporter, InMemoryMetricReader], clock: Clock
) -> None:
    """With the SDK's own buckets, of which the first ends at 5, quantiles of most times would be a guess."""
    telemetry = Telemetry(URL)
    telemetry.end(stream(clock, telemetry), "success", usage=USAGE, response=answer())
    data = sdk[1].get_metrics_data()
    assert data is not None
    measured = [m for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics]
    bounds = {m.name: m.data.data_points[0].explicit_bounds for m in measured if hasattr(m.data.data_points[0], "sum")}
    for name, value in (
        ("gen_ai.client.operation.duration", 2.5),
        ("gen_ai.client.token.usage", 1000),
        ("llm.tokens_per_second", 40),
    ):
        assert sum(bound < value for bound in bounds[name]) >= 5, name
        assert any(bound > 20 * value for bound in bounds[name]), name


@pytest.mark.usefixtures("without_opentelemetry")
def test_stats_work_without_opentelemetry(clock: Clock) -> None:
    assert module._instruments() is None
    telemetry = Telemetry(URL, capture_content=True)
    call = stream(clock, telemetry)
    assert call.span is None
    telemetry.retried(call, ServerBusyError("x"))
    telemetry.end(call, "success", usage=USAGE, response=answer())
    stats = telemetry.stats(running=0, queued=0)
    assert (stats.generations_succeeded, stats.retries, stats.chunks, stats.total_tokens) == (1, 1, 3, 16)


def test_a_call_that_began_without_opentelemetry_can_end_with_it(seen: Seen) -> None:
    telemetry = Telemetry(URL)
    telemetry.end(Call("chat", "m", False, None), "success", usage=USAGE)
    assert seen.spans == ()
    assert "llm.generation.success" in seen.metrics()
