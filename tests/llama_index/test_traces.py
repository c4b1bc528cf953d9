"""OpenTelemetry spans of LlamaIndex's calls: in the caller's trace, and none if disabled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from opentelemetry import trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.testing import OllamaServer

ASK = [ChatMessage(role="user", content="Say something.")]
WAYS = ["chat", "stream_chat", "achat", "astream_chat", "astream_complete"]


async def ask(llm: Ollama, way: str) -> Any:
    """Call inside a span of the application, and read the result after that span."""
    with trace.get_tracer("app").start_as_current_span("request") as outer:
        result = getattr(llm, way)("hi" if way.endswith("complete") else ASK)
        result = await result if way.startswith("a") else result
    if way.startswith("astream"):
        async for _ in result:
            pass
    elif way == "stream_chat":
        list(result)
    return outer


@pytest.mark.parametrize("way", WAYS)
def test_a_span_is_in_the_callers_trace(
    sdk: tuple[InMemorySpanExporter, InMemoryMetricReader], make_llm: Any, way: str
) -> None:
    sdk[0].clear()
    outer = asyncio.run(ask(make_llm(), way))
    span = next(span for span in sdk[0].get_finished_spans() if span.name == "chat llama3.2")
    assert span.parent is not None
    assert span.parent.span_id == outer.get_span_context().span_id


@pytest.mark.parametrize("way", WAYS)
def test_the_provider_can_disable_spans(
    sdk: tuple[InMemorySpanExporter, InMemoryMetricReader], ollama_server: OllamaServer, way: str
) -> None:
    sdk[0].clear()
    llm = Ollama(provider=OllamaProvider("llama3.2", ollama_server.url, telemetry=False))
    asyncio.run(ask(llm, way))
    assert [span.name for span in sdk[0].get_finished_spans()] == ["request"]
    assert llm.provider.stats().generations_succeeded == 1
