"""OpenTelemetry spans and metrics of a provider's requests: their trace, and how to turn them off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.testing import OllamaServer

Sdk = tuple[InMemorySpanExporter, InMemoryMetricReader]


def spans(sdk: Sdk) -> list[str]:
    return [span.name for span in sdk[0].get_finished_spans()]


def tokens(sdk: Sdk) -> int:
    """The reader's sum of `llm.tokens.total`, which includes other tests."""
    data = sdk[1].get_metrics_data()
    return sum(
        point.value
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "llm.tokens.total"
        for point in metric.data.data_points
    )


@pytest.fixture(autouse=True)
def _no_spans_of_other_tests(sdk: Sdk) -> None:
    sdk[0].clear()


def test_a_provider_can_turn_telemetry_off(sdk: Sdk, ollama_server: OllamaServer) -> None:
    before = tokens(sdk)
    with OllamaProvider("llama3.2", ollama_server.url, telemetry=False) as provider:
        provider.generate("x")
        list(provider.stream("x"))
        provider.sync.embed("x", model="all-minilm")
        assert provider.stats().generations_succeeded == 2
        assert provider.stats().total_tokens > 0
    assert (spans(sdk), tokens(sdk)) == ([], before)


@pytest.mark.parametrize("key", ["suppress_instrumentation", "suppress_language_model_instrumentation"])
def test_an_outer_instrumentation_can_suppress_telemetry(key: str, sdk: Sdk, ollama_server: OllamaServer) -> None:
    before = tokens(sdk)
    with OllamaProvider("llama3.2", ollama_server.url) as provider:
        token = context.attach(context.set_value(key, True))
        try:
            provider.generate("x")
            stream = provider.stream("x")  # the context of the call counts
        finally:
            context.detach(token)
        list(stream)
        assert (spans(sdk), tokens(sdk)) == ([], before)
        provider.generate("x")
        assert spans(sdk) == ["text_completion llama3.2"]


@pytest.mark.parametrize("way", ["generate", "stream", "stream_generate"])
def test_a_span_belongs_to_the_trace_of_the_call(way: str, sdk: Sdk, ollama_server: OllamaServer) -> None:
    """Also where the stream is read after the caller's span has ended, as frameworks do."""

    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    with OllamaProvider("llama3.2", ollama_server.url) as provider:
        with trace.get_tracer("app").start_as_current_span("request") as outer:
            result: Any = getattr(provider, way)("x")
        if way == "stream":
            list(result)
        elif way == "stream_generate":
            asyncio.run(read(result))
    span = next(span for span in sdk[0].get_finished_spans() if span.name.startswith("text_completion"))
    assert span.parent is not None
    assert span.parent.span_id == outer.get_span_context().span_id
