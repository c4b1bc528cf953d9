"""Chats, prompts and answers that exceed the context window are detected, with every method and server version."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import langchain_core.exceptions as langchain
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_namel3ss_ollama import ChatOllama, OllamaLLM
from namel3ss_ollama import ContextWindowExceededError
from namel3ss_ollama.testing import OllamaServer

OLD, REFUSES, HALVES = "0.9.3", "0.12.6", "0.30.11"
WINDOW = 512
TURN = "The keeper of the lighthouse wrote down the weather twice a day, and nobody asked to see the book. " * 2
CHAT: list[BaseMessage] = [(AIMessage if number % 2 else HumanMessage)(f"{number}: {TURN}") for number in range(61)]
SHORT: list[BaseMessage] = [HumanMessage("Go on.")]


async def invoke(model: ChatOllama, messages: list[BaseMessage]) -> dict[str, Any]:
    return (await asyncio.to_thread(model.invoke, messages)).response_metadata


async def ainvoke(model: ChatOllama, messages: list[BaseMessage]) -> dict[str, Any]:
    return (await model.ainvoke(messages)).response_metadata


async def stream(model: ChatOllama, messages: list[BaseMessage]) -> dict[str, Any]:
    return (await asyncio.to_thread(lambda: list(model.stream(messages))))[-1].response_metadata


async def astream(model: ChatOllama, messages: list[BaseMessage]) -> dict[str, Any]:
    return [piece async for piece in model.astream(messages)][-1].response_metadata


async def batch(model: ChatOllama, messages: list[BaseMessage]) -> dict[str, Any]:
    return (await asyncio.to_thread(model.batch, [messages]))[0].response_metadata


async def text_model(model: ChatOllama, messages: list[BaseMessage]) -> dict[str, Any]:
    settings = model.model_dump(include={"model", "base_url", "num_ctx", "on_truncation"})
    prompt = "\n".join(message.text for message in messages)
    return (await OllamaLLM(**settings).agenerate([prompt])).generations[0][0].generation_info or {}


Ask = Callable[[ChatOllama, list[BaseMessage]], Awaitable[dict[str, Any]]]
WAYS = pytest.mark.parametrize(
    "ask", [invoke, ainvoke, stream, astream, batch, text_model], ids=lambda ask: ask.__name__
)


@pytest.fixture(params=[OLD, REFUSES, HALVES])
def server(request: pytest.FixtureRequest) -> Iterator[OllamaServer]:
    with OllamaServer(version=request.param) as server:
        yield server


@WAYS
async def test_a_cut_is_a_warning(server: OllamaServer, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "namel3ss_ollama")
    model = ChatOllama(model="llama3.2", base_url=server.url, num_ctx=WINDOW)
    for _ in range(2):
        assert (await ask(model, CHAT))["truncated_prompt"] is True
    assert "truncated_prompt" not in await ask(model, SHORT)
    if ask is not text_model:  # a new one for each call
        assert caplog.text.count("the prompt was cut to the context window") == 1


@WAYS
async def test_a_cut_is_an_error(server: OllamaServer, ask: Ask) -> None:
    model = ChatOllama(model="llama3.2", base_url=server.url, num_ctx=WINDOW, on_truncation="error")
    with pytest.raises(langchain.ContextOverflowError) as caught:
        await ask(model, CHAT)
    assert isinstance(caught.value, ContextWindowExceededError)
    assert caught.value.window == WINDOW
    assert caught.value.tokens is not None
    assert caught.value.tokens > WINDOW


@WAYS
async def test_a_cut_may_be_ignored(server: OllamaServer, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    model = ChatOllama(model="llama3.2", base_url=server.url, num_ctx=WINDOW, on_truncation="ignore")
    assert "truncated_prompt" not in await ask(model, CHAT)
    assert "context window" not in caplog.text
    assert "truncate" not in server.requests[-1].payload


@WAYS
async def test_a_context_shift(server: OllamaServer, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    server.reply("word " * 600)
    model = ChatOllama(model="llama3.2", base_url=server.url, num_ctx=WINDOW)
    found = await ask(model, SHORT)
    assert found["shifted_context"] is True
    assert "truncated_prompt" not in found
    assert "the model forgot the beginning while it answered" in caplog.text
    with pytest.raises(langchain.ContextOverflowError) as caught:
        await ask(model.model_copy(update={"on_truncation": "error"}), SHORT)
    assert isinstance(caught.value, ContextWindowExceededError)
    assert caught.value.partial is not None
    assert caught.value.partial.content == "word " * 600
