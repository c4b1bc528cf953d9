"""The core: `OllamaProvider`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from benchmarks.clients import MESSAGES, PROMPT, Client, Forecast, PacedClient, SyncClient, weather
from benchmarks.worker import resident
from namel3ss_ollama import OllamaProvider, Stream
from namel3ss_ollama.testing import OllamaServer

_TOGETHER = 200
"""How many waiting streams begin at the same time."""


def _provider(url: str, **settings: Any) -> OllamaProvider:
    return OllamaProvider("bench", url, max_concurrent=None, **settings)


def provider(url: str, transport: Literal["aiohttp", "httpx"] = "aiohttp") -> Client:
    """`stream_chat`, over the default transport."""
    made = _provider(url, transport=transport)

    async def run(tokens: int) -> int:
        characters = 0
        async for chunk in made.stream_chat(MESSAGES, max_tokens=tokens):
            characters += len(chunk.content)
        return characters

    return run


def provider_httpx(url: str) -> Client:
    """`stream_chat`, over plain httpx."""
    return provider(url, "httpx")


def provider_with_telemetry(url: str) -> Client:
    """`stream_chat`, with OpenTelemetry's SDK recording spans and metrics."""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    return provider(url)


def provider_sync(url: str) -> SyncClient:
    """`stream`."""
    made = _provider(url)

    def run(tokens: int) -> int:
        return sum(len(chunk.content) for chunk in made.stream(MESSAGES, max_tokens=tokens))

    return run


def provider_whole(url: str) -> Client:
    """`achat`."""
    made = _provider(url)

    async def run(tokens: int) -> int:
        return len((await made.achat(MESSAGES, max_tokens=tokens)).content)

    return run


def paced(url: str) -> PacedClient:
    """`stream_chat`."""
    made = _provider(url)

    async def run(arrived: Callable[[str], None]) -> None:
        async for chunk in made.stream_chat(MESSAGES, model="live"):
            arrived(chunk.content)

    return run


def provider_stepped(url: str) -> Client:
    """`stream_chat` from a server that writes one token at a time."""
    made = _provider(url)

    async def run(tokens: int) -> int:
        characters = 0
        async for chunk in made.stream_chat(MESSAGES, max_tokens=tokens, model="stepped"):
            characters += len(chunk.content)
        return characters

    return run


async def embed(url: str, texts: int) -> None:
    """Vectors of many texts, in one call."""
    async with OllamaProvider("bench", url) as made:
        given = await made.embed([f"text {i}" for i in range(texts)])
    assert len(given.embeddings) == texts


async def batch(url: str, prompts: int, at_once: int, tokens: int) -> None:
    """Answers to many prompts, in one call."""
    async with OllamaProvider("bench", url, max_concurrent=at_once) as made:
        answers = await made.agenerate_batch((PROMPT for _ in range(prompts)), max_tokens=tokens)
    assert len(answers) == prompts


async def batch_journal(url: str, prompts: int, at_once: int, tokens: int) -> None:
    """The same with a journal; the prompts are distinct, since equal ones are asked once."""
    with tempfile.TemporaryDirectory() as folder:
        async with OllamaProvider("bench", url, max_concurrent=at_once) as made:
            given = (f"{PROMPT} {number}" for number in range(prompts))
            report = await made.agenerate_batch(given, journal=Path(folder) / "run.db", max_tokens=tokens)
    assert report.answered == prompts


async def tool_calls(url: str, answers: int) -> None:
    """Answers that call a tool."""
    async with OllamaProvider("bench", url) as made:
        for _ in range(answers):
            assert (await made.achat(MESSAGES, tools=[weather])).tool_calls[0].arguments["days"] == 3


async def structured(url: str, answers: int) -> None:
    """Answers in the form of a class."""
    async with OllamaProvider("bench", url) as made:
        for _ in range(answers):
            assert (await made.achat(MESSAGES, format=Forecast)).parsed == Forecast(city="Bergen", days=3)


async def requests(_: str, answers: int) -> dict[str, float]:
    """HTTP requests per answer, counted by the server."""
    with OllamaServer() as server:
        async with OllamaProvider("llama3.2", server.url) as made:
            for _ in range(answers):
                await made.achat(MESSAGES)
                async for _ in made.stream_chat(MESSAGES):
                    pass
        return {"requests": len(server.requests) / (2 * answers)}


async def memory_a_stream(url: str, streams: int) -> dict[str, float]:
    """The memory of a stream that waits for its next token, in bytes."""
    made = _provider(url)

    async def begun() -> Stream:
        stream = made.stream_chat(MESSAGES, max_tokens=2, model="held")
        await anext(stream)
        return stream

    asked = [await begun()]
    before = resident()
    while len(asked) <= streams:
        asked += await asyncio.gather(*(begun() for _ in range(min(_TOGETHER, streams + 1 - len(asked)))))
    each = (resident() - before) / streams
    await asyncio.gather(*(stream.aclose() for stream in asked))
    await made.aclose()
    return {"bytes": each}


async def limiter(url: str, tasks: int, slots: int) -> None:
    """Acquiring and releasing slots that many tasks wait for."""
    from namel3ss_ollama.limiter import Limiter

    made = Limiter(slots)

    async def once() -> None:
        async with made.slot():
            await asyncio.sleep(0)

    await asyncio.gather(*(once() for _ in range(tasks)))


async def semaphore(url: str, tasks: int, slots: int) -> None:
    """The same with asyncio's semaphore, which works within one event loop only."""
    made = asyncio.Semaphore(slots)

    async def once() -> None:
        async with made:
            await asyncio.sleep(0)

    await asyncio.gather(*(once() for _ in range(tasks)))


def construct(url: str) -> object:
    """A provider."""
    return OllamaProvider("bench", url)
