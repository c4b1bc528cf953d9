"""The package `ollama`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import ollama

from benchmarks.clients import MESSAGES, PROMPT, UNLIMITED, Client, Forecast, PacedClient, SyncClient, weather
from benchmarks.worker import resident


def chat(url: str) -> Client:
    """`AsyncClient.chat`, streaming."""
    client = ollama.AsyncClient(url)

    async def run(tokens: int) -> int:
        characters = 0
        async for part in await client.chat("bench", MESSAGES, stream=True, options={"num_predict": tokens}):
            characters += len(part.message.content or "")
        return characters

    return run


def paced(url: str) -> PacedClient:
    """`AsyncClient.chat`, streaming, without httpx's limit of 100 connections."""
    client = ollama.AsyncClient(url, limits=UNLIMITED)

    async def run(arrived: Callable[[str], None]) -> None:
        async for part in await client.chat("live", MESSAGES, stream=True):
            arrived(part.message.content or "")

    return run


def chat_stepped(url: str) -> Client:
    """The same from a server that writes one token at a time."""
    client = ollama.AsyncClient(url)

    async def run(tokens: int) -> int:
        characters = 0
        async for part in await client.chat("stepped", MESSAGES, stream=True, options={"num_predict": tokens}):
            characters += len(part.message.content or "")
        return characters

    return run


def chat_sync(url: str) -> SyncClient:
    """`Client.chat`, streaming."""
    client = ollama.Client(url)

    def run(tokens: int) -> int:
        parts = client.chat("bench", MESSAGES, stream=True, options={"num_predict": tokens})
        return sum(len(part.message.content or "") for part in parts)

    return run


async def embed(url: str, texts: int) -> None:
    """Vectors of many texts, in one call."""
    given = await ollama.AsyncClient(url).embed("bench", [f"text {i}" for i in range(texts)])
    assert len(given.embeddings) == texts


async def batch(url: str, prompts: int, at_once: int, tokens: int) -> None:
    """Answers to many prompts, by hand: the package has no batches."""
    client = ollama.AsyncClient(url)
    slots = asyncio.Semaphore(at_once)

    async def ask() -> str:
        async with slots:
            return (await client.generate("bench", PROMPT, options={"num_predict": tokens})).response

    answers = await asyncio.gather(*(ask() for _ in range(prompts)))
    assert len(answers) == prompts


async def tool_calls(url: str, answers: int) -> None:
    """Answers that call a tool."""
    client = ollama.AsyncClient(url)
    for _ in range(answers):
        calls = (await client.chat("bench", MESSAGES, tools=[weather])).message.tool_calls
        assert calls is not None
        assert calls[0].function.arguments["days"] == 3


async def structured(url: str, answers: int) -> None:
    """Answers in the form of a class."""
    client = ollama.AsyncClient(url)
    for _ in range(answers):
        answer = await client.chat("bench", MESSAGES, format=Forecast.model_json_schema())
        assert Forecast.model_validate_json(answer.message.content or "").days == 3


async def memory_a_stream(url: str, streams: int) -> dict[str, float]:
    """The memory of a stream that waits for its next token, in bytes."""
    client = ollama.AsyncClient(url, limits=UNLIMITED)

    async def begun() -> object:
        stream = await client.chat("held", MESSAGES, stream=True, options={"num_predict": 2})
        await anext(stream)
        return stream

    held = [await begun()]
    before = resident()
    for _ in range(streams):
        held.append(await begun())
    each = (resident() - before) / streams
    await client._client.aclose()
    return {"bytes": each}


def construct(url: str) -> object:
    """A client."""
    return ollama.AsyncClient(url)
