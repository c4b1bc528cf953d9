"""Chats, prompts and answers that exceed the context window are detected, with every method and server version."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage

from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import ContextWindowExceededError
from namel3ss_ollama.testing import OllamaServer

OLD, REFUSES, HALVES = "0.9.3", "0.12.6", "0.30.11"
WINDOW = 512
TURN = "The keeper of the lighthouse wrote down the weather twice a day, and nobody asked to see the book. " * 2
CHAT = [ChatMessage(f"{number}: {TURN}", role="assistant" if number % 2 else "user") for number in range(61)]
SHORT = [ChatMessage("Go on.")]


def joined(messages: list[ChatMessage]) -> str:
    return "\n".join(message.content or "" for message in messages)


async def chat(llm: Ollama, messages: list[ChatMessage]) -> Any:
    return (await asyncio.to_thread(llm.chat, messages)).raw


async def achat(llm: Ollama, messages: list[ChatMessage]) -> Any:
    return (await llm.achat(messages)).raw


async def stream_chat(llm: Ollama, messages: list[ChatMessage]) -> Any:
    return (await asyncio.to_thread(lambda: list(llm.stream_chat(messages))))[-1].raw


async def astream_chat(llm: Ollama, messages: list[ChatMessage]) -> Any:
    return [response async for response in await llm.astream_chat(messages)][-1].raw


async def complete(llm: Ollama, messages: list[ChatMessage]) -> Any:
    return (await asyncio.to_thread(llm.complete, joined(messages))).raw


async def astream_complete(llm: Ollama, messages: list[ChatMessage]) -> Any:
    return [response async for response in await llm.astream_complete(joined(messages))][-1].raw


Ask = Callable[[Ollama, list[ChatMessage]], Awaitable[Any]]
WAYS = pytest.mark.parametrize(
    "ask", [chat, achat, stream_chat, astream_chat, complete, astream_complete], ids=lambda ask: ask.__name__
)


@pytest.fixture(params=[OLD, REFUSES, HALVES])
def server(request: pytest.FixtureRequest) -> Iterator[OllamaServer]:
    with OllamaServer(version=request.param) as server:
        yield server


@WAYS
async def test_a_cut_is_a_warning(server: OllamaServer, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "namel3ss_ollama")
    llm = Ollama("llama3.2", server.url, context_window=WINDOW)
    for _ in range(2):
        assert (await ask(llm, CHAT))["truncated_prompt"] is True
    assert "truncated_prompt" not in await ask(llm, SHORT)
    assert caplog.text.count("the prompt was cut to the context window") == 1


@WAYS
async def test_a_cut_is_an_error(server: OllamaServer, ask: Ask) -> None:
    llm = Ollama("llama3.2", server.url, context_window=WINDOW, on_truncation="error")
    with pytest.raises(ContextWindowExceededError) as caught:
        await ask(llm, CHAT)
    assert caught.value.window == WINDOW
    assert caught.value.tokens is not None
    assert caught.value.tokens > WINDOW


@WAYS
async def test_a_cut_may_be_ignored(server: OllamaServer, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    llm = Ollama("llama3.2", server.url, context_window=WINDOW, on_truncation="ignore")
    assert "truncated_prompt" not in await ask(llm, CHAT)
    assert "context window" not in caplog.text
    assert "truncate" not in server.requests[-1].payload


@WAYS
async def test_a_context_shift(server: OllamaServer, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    server.reply("word " * 600)
    found = await ask(Ollama("llama3.2", server.url, context_window=WINDOW), SHORT)
    assert found["shifted_context"] is True
    assert "truncated_prompt" not in found
    assert "the model forgot the beginning while it answered" in caplog.text
    with pytest.raises(ContextWindowExceededError) as caught:
        await ask(Ollama("llama3.2", server.url, context_window=WINDOW, on_truncation="error"), SHORT)
    assert caught.value.partial is not None
    assert caught.value.partial.content == "word " * 600
